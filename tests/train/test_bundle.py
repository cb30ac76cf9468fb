"""What is shipped: a base and a checkpoint in float16, which load like any other."""

import json

import pytest
import torch
from safetensors.torch import load_file

from osediff_core import OSEDiff, OSEDiffError
from osediff_core.base.load import DEMO_BASE, DEMO_WEIGHTS
from osediff_core.base.text import EMBEDDING, EMPTY_PROMPT
from train.demo.bundle import bundle, main


def test_a_bundle_loads_and_restores_as_what_it_was_made_of(tmp_path, micro, model):
    size = bundle(micro / "tiny_sd", micro / "osediff.pkl", tmp_path)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert size == sum(file.stat().st_size for file in files)
    for part in ("unet", "vae", "text_encoder"):
        settings = json.loads((tmp_path / "base" / part / "config.json").read_text())
        assert "_name_or_path" not in settings
    half = OSEDiff.from_pretrained(
        tmp_path / "base", tmp_path / "osediff_demo.safetensors", dtype="float32", device="cpu"
    )
    assert half.empty_prompt is not None
    torch.testing.assert_close(half.empty_prompt, half.encode_prompt([""]), rtol=0, atol=1e-5)
    for name, parameter in half.named_parameters():
        expected = model.get_parameter(name)
        assert (parameter - expected).abs().max() <= 1e-3 * expected.abs().max() + 1e-6, name
    assert half.vae.config == model.vae.config
    assert half.unet.config == model.unet.config
    assert not torch.equal(half.unet.conv_in.weight, model.unet.conv_in.weight), "control: float16"


def test_a_base_that_brings_the_empty_prompt_is_bundled_with_it(tmp_path):
    bundle(DEMO_BASE, DEMO_WEIGHTS, tmp_path)
    ours, theirs = (load_file(place / EMPTY_PROMPT)[EMBEDDING] for place in (tmp_path / "base", DEMO_BASE))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_base_that_is_not_there_is_a_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["bundle", str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "c")])
    assert main() == 2
    assert "there is no base at" in capsys.readouterr().err
    with pytest.raises(OSEDiffError):
        bundle(tmp_path / "a", tmp_path / "b", tmp_path / "c")

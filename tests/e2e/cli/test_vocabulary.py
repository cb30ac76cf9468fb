"""--vocabulary: a base in one file has no tokenizer, so every command that loads one can be told of it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from osediff_core.commands.cli import main
from osediff_core.model import OSEDiff
from osediff_core.weights.recognise import CONV_IN, CROSS_ATTENTION, TEXT_2, UNET, V_SIGN, VAE

COMMANDS = {
    "restore": "a.png b.png",
    "verify": "verify in out",
    "convert": "convert o.pkl m --to merged",
}


@pytest.fixture
def single_file(tmp_path, micro, picture, monkeypatch):
    """A folder with pictures, a checkpoint, and what is taken for Stable Diffusion 2.1-base in one file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("osediff_core.base.vocabulary._places", list)  # a computer without any
    (tmp_path / "o.pkl").symlink_to(micro / "osediff.pkl")
    picture("a.png")
    picture("in/a.png")
    picture("out/a.png", (40, 32))
    tensors = {
        CONV_IN: torch.zeros(320, 4, 3, 3),
        CROSS_ATTENTION: torch.zeros(320, 1024),
        V_SIGN: torch.zeros(320),
        UNET + "out.2.weight": torch.zeros(4, 320, 3, 3),
        VAE + "encoder.conv_in.weight": torch.zeros(128, 3, 3, 3),
        TEXT_2 + "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(3072, 1024),
    }
    save_file(tensors, "base.safetensors")
    return ["--base", "base.safetensors"]


@pytest.mark.parametrize("argv", COMMANDS.values(), ids=COMMANDS)
def test_without_one_the_sentence_names_the_option_and_a_wrong_one_is_named(single_file, capsys, argv):
    assert main([*argv.split(), *single_file]) == 1
    said = capsys.readouterr().err
    assert "none was found on this computer" in said
    assert "--vocabulary FOLDER" in said
    assert main([*argv.split(), *single_file, "--vocabulary", "in"]) == 1
    assert "the folder in has none" in capsys.readouterr().err


@pytest.mark.parametrize("argv", COMMANDS.values(), ids=COMMANDS)
def test_it_reaches_the_loading(single_file, model, capsys, monkeypatch, argv):
    Path("words").mkdir()
    seen = []

    def load(*args, **options):
        seen.append(options["vocabulary"])
        return model

    monkeypatch.setattr(OSEDiff, "from_pretrained", load)
    monkeypatch.setattr("osediff_core.tools.merged.read_schedule", lambda base: {})
    assert main([*argv.split(), *single_file, "--vocabulary", "words"]) == 0, capsys.readouterr().err
    assert seen == ["words"]

"""Prompts of training pictures: by the tagger, written down once, or one for all."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.waits import CARD, Waits, uploads_let_go
from osediff_core import Tagger
from osediff_core.errors import OSEDiffError
from train.config import to_toml
from train.data import build_dataset
from train.degradation import degrade
from train.prompts import prompter as prompter_module
from train.prompts.__main__ import main
from train.prompts.prompter import PromptConfig, Prompter, read_prompts, write_prompts
from train.randomness.streams import stream

RECORDED = Path(__file__).resolve().parents[1] / "golden_ram_tiny" / "weights.safetensors"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ram(tmp_path_factory):
    """Return the path of a tiny RAM with its lists beside it."""
    folder = tmp_path_factory.mktemp("ram")
    tensors = {k: t for k, t in load_file(RECORDED).items() if ".lora_" not in k}
    torch.save({"model": tensors}, folder / "ram.pth")
    (folder / "ram_tag_list.txt").write_text("\n".join(f"tag {i}" for i in range(120)))
    (folder / "ram_tag_list_threshold.txt").write_text("0.5\n" * 120)
    return folder / "ram.pth"


@pytest.fixture
def prompter(loaded):
    """Return a maker of prompters on the tiny base."""
    fixed = torch.zeros(1, 77, 16)
    return lambda config: Prompter(config, fixed, copy.copy(loaded), CPU)


def test_a_fixed_prompt_costs_nothing(prompter, batch):
    made = prompter(PromptConfig())
    assert made.embeds(*batch, ["a", "b"]) is made.fixed


@pytest.mark.parametrize("of", ["hq", "lq"])
def test_tags_are_those_of_the_picture_that_is_asked_about(prompter, batch, ram, loaded, of):
    lq, hq = batch
    made = prompter(PromptConfig(source="tags", of=of, tagger=str(ram)))
    words = made.words(lq, hq, ["a", "b"])
    tagger = Tagger.from_pretrained(ram, device="cpu")
    assert words == [", ".join(tags) for tags in tagger.tags(lq if of == "lq" else hq)]
    assert words != [", ".join(tags) for tags in tagger.tags(hq if of == "lq" else lq)]
    embeds = made.embeds(lq, hq, ["a", "b"])
    with torch.no_grad():
        torch.testing.assert_close(embeds, loaded.encode_prompt(words))


def test_embeddings_are_kept_within_bounds(prompter, loaded, batch, monkeypatch):
    made = prompter(PromptConfig(keep=2))
    calls = []
    encode = made.model.encode_prompt
    monkeypatch.setattr(made.model, "encode_prompt", lambda texts: calls.append(texts) or encode(texts))
    for prompt in ("a", "b", "a", "c", "a", "b"):
        made._embed([prompt])
    assert calls == [["a"], ["b"], ["c"], ["b"]]
    assert len(made._kept) == 2


def test_what_a_prompt_gets_depends_on_no_other_and_not_on_what_is_kept(prompter, loaded):
    made = prompter(PromptConfig(keep=2))
    with torch.no_grad():
        one_by_one = torch.cat([loaded.encode_prompt([prompt]) for prompt in "abcab"])
    assert torch.equal(made._embed([*"abcab"]), one_by_one)  # three that are new, of which two are kept
    assert torch.equal(made._embed([*"abcab"]), one_by_one)


def test_new_prompts_of_a_batch_are_waited_for_once(loaded):
    made = Prompter(PromptConfig(), torch.zeros(1, 77, 16), copy.copy(loaded), CARD)
    made.model.encode_prompt = lambda texts: torch.ones(len(texts), 77, 16, device=CARD)
    with Waits() as waits, uploads_let_go(prompter_module):
        assert made._embed(["a", "b", "a"]).shape == (3, 77, 16)
        assert made._embed(["b", "a"]).device == CARD
    assert waits.seen == ["to host"]


def config_file(config, tmp_path, ram, **prompts) -> tuple[Path, object]:
    made = config()
    settings = {"source": "tags", "tagger": str(ram), "file": str(tmp_path / "p" / "prompts.json"), **prompts}
    made = replace(made, prompts=PromptConfig(**settings))
    path = tmp_path / "config.toml"
    path.write_text(to_toml(made))
    return path, made


@pytest.mark.parametrize("of", ["hq", "lq"])
def test_the_command_writes_a_prompt_for_every_picture(config, tmp_path, ram, pictures, prompter, batch, of):
    path, made = config_file(config, tmp_path, ram, of=of)
    assert main([str(path), "--device", "cpu"]) == 0
    written = read_prompts(made.prompts)
    assert sorted(written) == [str(pictures / f"{n}.png") for n in range(3)]
    source = build_dataset(made.data, made.degradation, made.run.seed).sources[0]
    found = next(iter(source.once(())))
    from osediff_core.resize import resize_bicubic

    view = resize_bicubic(found.hq.rgb, (64, 64))[0].float() / 255
    if of == "lq":
        view = degrade(view, made.degradation, stream(made.run.seed, "prompt", found.name))
    tags = Tagger.from_pretrained(ram, device="cpu").tags(view[None])[0]
    assert written[found.name] == ", ".join(tags)
    names = list(written)[:2]
    assert prompter(made.prompts).words(*batch, names) == [written[name] for name in names]


def test_an_interrupted_command_goes_on(config, tmp_path, ram, pictures, capsys):
    path, made = config_file(config, tmp_path, ram)
    write_prompts(made.prompts, {str(pictures / "1.png"): "kept"})
    assert main([str(path), "--device", "cpu"]) == 0
    assert "3 prompts" in capsys.readouterr().out
    assert read_prompts(made.prompts)[str(pictures / "1.png")] == "kept"


def test_prompts_go_with_names_of_any_letters(config, tmp_path, ram):
    _, made = config_file(config, tmp_path, ram)
    prompts = {"a\udcff.png": "cat", "é模.png": "狗"}
    write_prompts(made.prompts, prompts)
    assert read_prompts(made.prompts) == prompts
    content = Path(made.prompts.file).read_bytes()
    assert "狗".encode() in content
    Path(made.prompts.file).write_bytes(b"\xef\xbb\xbf" + content)
    assert read_prompts(made.prompts) == prompts


def test_what_does_not_fit_is_a_sentence(config, tmp_path, ram, prompter, batch, capsys):
    path, made = config_file(config, tmp_path, ram)
    with pytest.raises(OSEDiffError, match=r"train\.prompts"):
        prompter(made.prompts)
    write_prompts(made.prompts, {"a": "cat"})
    with pytest.raises(OSEDiffError, match="no prompt for b"):
        prompter(made.prompts).embeds(*batch, ["a", "b"])
    with pytest.raises(OSEDiffError, match=r"another prompts\.of"):
        read_prompts(replace(made.prompts, of="lq"))
    Path(made.prompts.file).write_text(json.dumps([1]))
    with pytest.raises(OSEDiffError, match="no file of prompts"):
        read_prompts(made.prompts)
    for source in ("tags", "description"):
        with pytest.raises(OSEDiffError, match="needs prompts"):
            prompter(PromptConfig(source=source))
    path.write_text(to_toml(config()))
    assert main([str(path)]) == 2
    assert "prompts.source" in capsys.readouterr().err

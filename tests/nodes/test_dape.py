"""The tagger's nodes, over a stand-in for ComfyUI, with a small tagger."""

from __future__ import annotations

import os
import shutil
import sys

import pytest
import torch

from osediff_core.prompts.text import split_prompts

FOLDED = "none (in the tagger's file, or plain RAM)"
FILE = {"tagger": "osediff_dape.safetensors", "dape": FOLDED, "antialias": False}
PROMPT = {"threshold_offset": 0.0, "leave_out": "", "extra_text": ""}


@pytest.fixture
def tagger_file(comfy, tiny_tagger):
    """The tagger in models/osediff_dape."""
    folder = comfy.models / "osediff_dape"
    folder.mkdir(exist_ok=True)
    return shutil.copy(tiny_tagger, folder)


@pytest.fixture
def dape(nodes, tagger_file):
    return nodes["OSEDiffDAPELoader"].run(**FILE).args[0]


@pytest.fixture(autouse=True)
def vocabulary(pack, monkeypatch, model):
    """The stand-in brings no vocabulary; the micro model's is as good for counting."""
    module = sys.modules[f"{pack.__name__}.nodes.dape"]
    monkeypatch.setattr(module, "sd2_tokenizer", lambda folder: model.idle.tokenizer)
    monkeypatch.setattr(module, "vocabulary_folder", lambda: None)


@pytest.fixture
def prompt(nodes, dape):
    """A function that runs OSEDiffDAPEPrompt."""

    def run(image, **inputs):
        out = nodes["OSEDiffDAPEPrompt"].run(dape=dape, image=image, **{**PROMPT, **inputs})
        return (*out.args, out.ui.as_dict()["text"][0])

    return run


def test_the_prompt_is_the_cores_and_is_shown(prompt, tiny_tagger, photo, comfy):
    from osediff_core import Tagger

    image = photo(96, 80)
    text, listed, shown = prompt(image, extra_text="a photo (old)")
    tags = Tagger.from_pretrained(tiny_tagger, device="cpu", dtype="float32").tags(image.movedim(-1, 1))[0]
    assert len(tags) > 2
    assert text == ", ".join(tags) + ", a photo (old),"
    assert text.startswith(shown.split("\n")[0][:20])
    assert comfy.said[-1] == ("7", shown)
    assert comfy.loads[-1][1] > 0  # room was made in memory
    assert "(" in listed[0]
    assert listed[0].replace("\\(", "(").replace("\\)", ")") in text
    assert listed[0].count("(") == listed[0].count("\\(")


def test_offset_and_words_to_leave_out(prompt, photo):
    image = photo(96, 80)
    tags = prompt(image)[0].split(", ")[:-1]
    assert len(prompt(image, threshold_offset=0.1)[0]) < len(prompt(image)[0])
    text, _, shown = prompt(image, leave_out=f"{tags[0]}, nonsense")
    assert text.split(", ")[:-1] == tags[1:]
    assert "'nonsense' is no tag" in shown
    assert repr(tags[0]) not in shown


def test_a_long_prompt_is_cut_for_the_stock_encoder_and_says_so(prompt, photo, model):
    text, listed, shown = prompt(photo(96, 80), threshold_offset=-0.6)
    assert "cut after 75 tokens" in shown
    assert len(model.idle.tokenizer(text).input_ids) - 2 > 75
    kept = listed[0].replace("\\", "")
    assert len(model.idle.tokenizer(kept).input_ids) - 2 <= 75
    assert text.startswith(kept)


def test_a_batch_keeps_its_prompts_apart_up_to_the_model(nodes, model, prompt, photo):
    image = torch.cat([photo(21, 34), torch.zeros(1, 21, 34, 3)])
    text, listed, _ = prompt(image, extra_text="one\n---\ntwo")
    first, second = split_prompts(text)
    assert first.endswith(", one,")
    assert second.endswith(", two,")
    assert len(listed) == 2
    (embeds, _), *rest = nodes["OSEDiffTextEncode"].run(model=model, prompt=text).args[0]
    assert not rest
    alone = [nodes["OSEDiffTextEncode"].run(model=model, prompt=one).args[0][0][0] for one in (first, second)]
    assert torch.equal(embeds, torch.cat(alone))
    assert not torch.equal(*alone)


def test_upscale_tags_each_picture_as_the_core_does(nodes, model, dape, tiny_tagger, photo):
    from osediff_core import Tagger

    image = torch.cat([photo(21, 34), torch.zeros(1, 21, 34, 3)])
    inputs = {"model": model, "image": image, "scale": 2.0, "color": "none", "tile": "auto", "detail": 1.0}
    out = nodes["OSEDiffUpscale"].run(**inputs, prompt="a photo", dape=dape)
    tagger = Tagger.from_pretrained(tiny_tagger, device="cpu", dtype="float32")
    levels = (image.movedim(-1, 1) * 255).round().to(torch.uint8)
    expected = tagger(levels, "a photo", 2.0)
    assert split_prompts(out.args[1]) == expected
    assert expected[0] in out.ui.as_dict()["text"][0]
    typed = nodes["OSEDiffUpscale"].run(**inputs, prompt=out.args[1])
    assert torch.equal(out.args[0], typed.args[0])
    plain = nodes["OSEDiffUpscale"].run(**inputs, prompt="a photo")
    assert plain.args[1] == "a photo"
    assert not torch.equal(out.args[0], plain.args[0])


def test_cancel_works_between_two_pictures(prompt, photo, comfy, stub):
    comfy.cancel_after = 1
    with pytest.raises(stub.InterruptProcessingException):
        prompt(photo(21, 34, batch=3))
    assert comfy.progress == [(1, 3)]


def test_as_many_texts_as_pictures(nodes, dape, photo):
    with pytest.raises(ValueError, match="got 2 prompts for 3 images"):
        nodes["OSEDiffDAPEPrompt"].run(
            dape=dape, image=photo(batch=3), **{**PROMPT, "extra_text": "a\n---\nb"}
        )


def test_a_missing_or_replaced_file_is_noticed(comfy, nodes, tagger_file):
    loader = nodes["OSEDiffDAPELoader"]
    for missing in ({"tagger": "gone.safetensors"}, {"dape": "gone.pth"}):
        with pytest.raises(ValueError, match=f"'{next(iter(missing.values()))}' is not there"):
            loader.run(**{**FILE, **missing})
    before = loader.fingerprint_inputs(**FILE)
    os.utime(tagger_file, ns=(1, 1))
    assert loader.fingerprint_inputs(**FILE) != before
    comfy.folders["osediff_dape"] = ([str(comfy.models / "nowhere")], {".safetensors"})
    options = loader.define_schema().inputs[0].arguments["options"]
    assert ["osediff convert-dape" in option for option in options] == [True]
    with pytest.raises(ValueError, match=r"there is no tagger .* osediff convert-dape"):
        loader.run(**{**FILE, "tagger": options[0]})


def test_the_lists_hold_what_can_be_chosen(comfy, nodes, tagger_file):
    (comfy.models / "osediff_dape" / "DAPE.pth").write_bytes(b"x")
    tagger, dape, _ = nodes["OSEDiffDAPELoader"].define_schema().inputs
    assert tagger.arguments["options"] == ["DAPE.pth", "osediff_dape.safetensors"]
    assert dape.arguments["options"] == [FOLDED, "DAPE.pth"]
    with pytest.raises(ValueError, match="already"):
        nodes["OSEDiffDAPELoader"].run(**{**FILE, "dape": "DAPE.pth"})
    (comfy.models / "osediff_dape" / "DAPE.pth").unlink()

"""Prompts from a tagger on the command line, on the micro model."""

import pytest
import transformers

from osediff_core import Tagger, restore
from osediff_core.pictures.images import read_image


def test_each_picture_gets_its_own_tags(osediff, model, picture, tiny_tagger, tmp_path):
    first, second = picture("in/a.png"), picture("in/b.png", (12, 9))
    status, said = osediff(
        "in", "out", "--tagger", tiny_tagger, "--prompt", "a photo", "--scale", 2, "--color", "none"
    )
    assert status == 0
    tagger = Tagger.from_pretrained(tiny_tagger, device="cpu", dtype="float32")
    for name, lq in (("a.png", first), ("b.png", second)):
        (prompt,) = tagger(lq, "a photo", 2.0)
        assert f"{name}: {prompt}" in said
        expected = restore(model, lq, scale=2, prompt=prompt, color="none")
        made = read_image(tmp_path / "out" / name).rgb.float() / 255
        assert (made - expected).abs().max() < 1.01 / 255
        plain = restore(model, lq, scale=2, prompt="a photo", color="none")
        assert (made - plain).abs().max() > 1.01 / 255


def test_a_prompt_that_is_cut_is_mentioned(osediff, picture):
    picture("a.png")
    status, said = osediff("a.png", "b.png", "--scale", 1, "--prompt", "word " * 80)
    assert status == 0
    assert "the prompt of a.png is cut after 75 tokens" in said
    assert "cut" not in osediff("a.png", "c.png", "--scale", 1, "--prompt", "word")[1]


# Before 4.46 transformers knows no captioner, which is said first.
VLM = "hf download" if hasattr(transformers, "AutoModelForImageTextToText") else "install 4.46 or later"


def test_a_model_that_is_not_there(osediff, picture):
    picture("a.png")
    status, said = osediff("a.png", "b.png", "--vlm", "nowhere")
    assert status == 1
    assert VLM in said


def test_one_source_at_a_time(osediff, picture):
    picture("a.png")
    with pytest.raises(SystemExit) as caught:
        osediff("a.png", "b.png", "--tagger", "x", "--vlm", "y")
    assert caught.value.code == 2

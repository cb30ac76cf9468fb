"""What the page of `osediff app` does, without a browser; the page itself where gradio is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osediff_core import OSEDiffError, restore
from osediff_core.commands.app import Session, page
from osediff_core.commands.cli import main

DIALS = (2, 1.0, "none", "a dog")


@pytest.fixture
def work(model, tmp_path):
    (tmp_path / "kept").mkdir()
    return Session(model, None, tmp_path / "kept")


@pytest.fixture
def pixels(tmp_path):
    found = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    (tmp_path / "in").mkdir()
    for name in "abc":
        Image.fromarray(found).save(tmp_path / "in" / f"{name}.png")
    return found


def nothing(*_, **__):
    """Take no notice of progress."""


def test_a_picture_is_what_restore_gives(model, work, pixels, tmp_path):
    (before, after), result = work.picture(str(tmp_path / "in" / "a.png"), DIALS, nothing)
    assert np.array_equal(before, pixels)
    assert np.array_equal(after, restore(model, pixels, scale=2, color="none", prompt="a dog"))
    assert Path(result).name == "a_x2.png"
    assert "24 x 18 in one tile" in work.plan(str(tmp_path / "in" / "a.png"), 2)
    assert work.plan(None, 2) == ""
    assert "no picture" in work.plan(str(tmp_path / "none.png"), 2) or "cannot be" in work.plan("none.png", 2)
    assert work.tags(None, "a dog", 2) == "a dog"
    with pytest.raises(OSEDiffError, match="choose one"):
        work.picture(None, DIALS, nothing)


def test_a_folder_is_restored_cancelled_and_gone_on_with(work, pixels, tmp_path):
    source, target = str(tmp_path / "in"), str(tmp_path / "out")
    seen = []

    def cancel(at, desc, unit):
        seen.append(desc)
        if desc == "b.png":
            work.stop()

    lines = list(work.files(source, target, DIALS, cancel))
    assert lines[-1].splitlines()[-1] == "cancelled"
    assert [path.name for path in Path(target).iterdir()] == ["a.png"]
    assert "c.png" not in seen
    lines = list(work.files(source, target, DIALS, nothing))
    assert lines[0] == "2 to restore, 1 there already"
    assert lines[-1].endswith(f"c.png: wrote {Path(target) / 'c.png'}\ndone")
    with pytest.raises(OSEDiffError, match="name both"):
        list(work.files(source, "", DIALS, nothing))


@pytest.mark.skipif(importlib.util.find_spec("gradio") is not None, reason="gradio is installed")
def test_without_gradio_a_sentence_says_what_to_install(capsys):
    assert main(["app"]) == 1
    assert "pip install osediff[app]" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the app extra")
@pytest.mark.parametrize("folders", [False, True])
def test_the_page_has_a_folder_only_for_this_machine(work, folders):
    import gradio

    labels = {
        block.label
        for block in page(gradio, work, folders=folders).blocks.values()
        if hasattr(block, "label")
    }
    assert ("Folder" in labels) == folders
    assert "Before and after" in labels

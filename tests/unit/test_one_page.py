"""docs/osediff_in_one_page.py is what the project does."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core import OSEDiff, restore

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "osediff_in_one_page.py"


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("one_page", PAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo():
    return OSEDiff.from_pretrained(device="cpu", dtype="float32")


def picture(height, width):
    g = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (1, 3, height, width), generator=g, dtype=torch.uint8)


@pytest.mark.parametrize(("height", "width", "scale"), [(24, 32, 4), (17, 21, 3)])
@pytest.mark.parametrize("prompt", ["", "a cup, a table"])
def test_the_page_is_what_restore_does(page, demo, height, width, scale, prompt):
    lq = picture(height, width)
    ours, theirs = page.restore(demo, lq, scale, prompt), restore(demo, lq, scale=scale, prompt=prompt)
    assert (ours - theirs).abs().max() < 1e-6


def test_the_comparison_sees_another_step(page, demo, monkeypatch):
    lq = picture(24, 32)
    monkeypatch.setattr(page, "T", 990)
    assert (page.restore(demo, lq) - restore(demo, lq)).abs().max() > 1e-3


@pytest.mark.slow
def test_it_runs_as_its_first_line_says(tmp_path):
    Image.fromarray(picture(20, 16)[0].permute(1, 2, 0).numpy()).save(tmp_path / "in.png")
    command = [sys.executable, str(PAGE), str(tmp_path / "in.png"), str(tmp_path / "out.png")]
    subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""}, check=True)
    assert np.asarray(Image.open(tmp_path / "out.png")).shape == (80, 64, 3)

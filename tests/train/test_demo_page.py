"""What the README and docs/demo.md show of the demo is what the command makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from osediff_core import OSEDiff
from osediff_core.pictures.images import read_image
from osediff_core.resize import resize_bicubic
from train.demo import page as demo_page
from train.demo.page import COFFEE, GAP, Draw, before_after, format_draws

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_draws_are_averaged_and_the_first_is_that_of_the_table():
    draws = [
        Draw(1000, 26.0, (1.0, 0.5), 0.7, (0.05, 0.02), -0.1),
        Draw(2000, 27.0, (2.0, 0.7), 0.8, (0.07, 0.04), 0.2),
    ]
    assert format_draws(draws).splitlines()[2:] == [
        "| 1000, above | 26.00 | +1.00 | +0.50 | 0.700 | +0.0500 | +0.020 | -0.10 dB |",
        "| 2000 | 27.00 | +2.00 | +0.70 | 0.800 | +0.0700 | +0.040 | +0.20 dB |",
        "| mean | 26.50 | +1.50 | +0.60 | 0.750 | +0.0600 | +0.030 |  |",
    ]


@pytest.mark.slow
def test_all_rows_are_there(micro, monkeypatch, tmp_path, capsys):
    """On the micro model and two small pictures, in two draws, put into a page that is there."""
    base = OSEDiff.from_pretrained(micro / "tiny_sd", device="cpu", dtype="float32")
    monkeypatch.setattr(OSEDiff, "from_pretrained", lambda *_, **__: base)
    pictures = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(pictures, (64, 64), mode="bicubic").clamp(0, 1)
    monkeypatch.setattr(
        demo_page, "heldout_crops", lambda: [(str(i), (one * 255).byte()) for i, one in enumerate(smooth)]
    )
    monkeypatch.setattr(demo_page, "SEEDS", (1000, 2000))
    page = tmp_path / "demo.md"
    begin, end = (f"<!-- python -m train.demo_page: {word} -->" for word in ("begin", "end"))
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    assert demo_page.main(["--doc", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    for row in (
        "bicubic",
        "bicubic + blur",
        "base without a checkpoint",
        "**OSEDiff**",
        "the same, `--color none`",
    ):
        assert f"| {row}" in text
    assert text.count("| mean |") == 1
    assert "VAE round trip of the same crops" in text
    assert "| mean |" in capsys.readouterr().out


def test_the_page_has_the_part_that_the_command_writes():
    text = (DOCS / "demo.md").read_text(encoding="utf-8")
    part = text.partition("<!-- train.demo_page: written by a program -->")[2].partition(
        "<!-- train.demo_page"
    )[0]
    assert "| **OSEDiff** (the bundled demo) |" in part
    assert demo_page.OTHER_DRAWS in part


@pytest.mark.slow
def test_the_readmes_picture_is_of_the_bundled_demo():
    lq = read_image(COFFEE).rgb
    made = before_after(lq, OSEDiff.from_pretrained(device="cpu", dtype="float32"))
    shown = read_image(DOCS / "pictures" / "before_after.jpg").rgb
    assert made.shape == shown.shape
    apart = (made.int() - shown.int()).abs().float()
    assert apart.mean() < 1.5  # what JPEG costs
    half = (shown.shape[3] - GAP) // 2
    control = resize_bicubic(lq, (made.shape[2], half)).int()
    assert (made[..., -half:].int() - control).abs().float().mean() > 2 * apart.mean()

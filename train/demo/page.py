"""What docs/demo.md and the README show of the bundled demo, made again: its tables and its picture.

python -m train.demo_page                                             # print the tables: some minutes
python -m train.demo_page --doc docs/demo.md                          # and put them into that page
python -m train.demo_page --picture docs/pictures/before_after.jpg    # only the README's picture
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from osediff_core import OSEDiff, restore
from osediff_core.base.load import DEMO_BASE
from osediff_core.color import to_levels
from osediff_core.commands.console import show
from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import read_image, write_image
from osediff_core.resize import resize_bicubic

from ..evaluation.tables import markdown
from ..programs.console import refuse, start_console
from ..programs.pages import write_parts
from .evaluation import (
    SCALE,
    best_blur,
    bicubic,
    degraded_pairs,
    format_table,
    measure,
    tabulate,
    vae_round_trip,
)
from .heldout import heldout_crops

COMMAND = "train.demo_page"
SEEDS = (1000, 2000, 3000, 4000)
"""Draws of the degradation; the first is that of the table."""
COFFEE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "coffee_lq.png"
OTHER_DRAWS = (
    "The same crops with other draws of the degradation (`--seed`), the bundled demo against bicubic and "
    "against the best\nblur for each of the two measures:"
)
GAP, QUALITY = 8, 88
"""White between the two halves of the picture, pixels, and what its JPEG is written with."""


@dataclass(frozen=True)
class Draw:
    """Means of one draw: ours, and what it has over bicubic and over the best blur for each measure."""

    seed: int
    psnr: float
    psnr_over: tuple[float, float]
    ssim: float
    ssim_over: tuple[float, float]
    worst: float


def tables(pictures: Sequence[tuple[str, Tensor]], base: OSEDiff, demo: OSEDiff, seeds: Sequence[int]) -> str:
    """Both tables and the line on the VAE, as Markdown; pictures: uint8 (3, H, W) with their names."""
    named = [*pictures]
    pairs = degraded_pairs(named, seeds[0])
    rows = tabulate(
        {"base without a checkpoint": base, "**OSEDiff** (the bundled demo)": demo}, pairs, "adain"
    )
    _, reference = measure("bicubic", bicubic, pairs)
    for color in ("none", "wavelet"):
        name = f"the same, `--color {color}`"
        rows.append(
            measure(name, lambda lq, c=color: restore(demo, lq, scale=SCALE, color=c), pairs, reference)[0]
        )
    draws = [_draw(seed, degraded_pairs(named, seed), demo) for seed in seeds]
    mean, worst = vae_round_trip(base, [picture for _, picture in named])
    return "\n\n".join(
        [
            format_table(rows),
            OTHER_DRAWS,
            format_draws(draws),
            f"VAE round trip of the same crops, RGB: {mean:.1f} dB in the mean, {worst:.1f} dB on the worst.",
        ]
    )


def _draw(seed: int, pairs: list, demo: OSEDiff) -> Draw:
    low, reference = measure("bicubic", bicubic, pairs)
    blurs = best_blur(pairs)
    own, _ = measure("demo", lambda lq: restore(demo, lq, scale=SCALE), pairs, reference)
    psnr, ssim = (max(getattr(row, name) for row in blurs) for name in ("psnr", "ssim"))
    over = (own.psnr - low.psnr, own.psnr - psnr), (own.ssim - low.ssim, own.ssim - ssim)
    return Draw(seed, own.psnr, over[0], own.ssim, over[1], own.worst_gain)


def format_draws(draws: Sequence[Draw]) -> str:
    """Return the draws as a Markdown table with their mean; the first is that of the table above."""
    heads = (
        "draw",
        "PSNR-Y",
        "over bicubic",
        "over the blur",
        "SSIM-Y",
        "over bicubic",
        "over the blur",
        "worst picture",
    )
    rows = []
    for i, d in enumerate(draws):
        name = f"{d.seed}, above" if i == 0 else str(d.seed)
        rows.append([name, *_cells(d.psnr, d.psnr_over, d.ssim, d.ssim_over), f"{d.worst:+.2f} dB"])
    overs = [
        tuple(map(fmean, zip(*(getattr(d, n) for d in draws), strict=True)))
        for n in ("psnr_over", "ssim_over")
    ]
    means = _cells(fmean(d.psnr for d in draws), overs[0], fmean(d.ssim for d in draws), overs[1])
    return markdown(heads, [*rows, ["mean", *means, ""]])


def _cells(
    psnr: float, psnr_over: Sequence[float], ssim: float, ssim_over: Sequence[float]
) -> tuple[str, ...]:
    return (
        *(f"{psnr:.2f}", f"{psnr_over[0]:+.2f}", f"{psnr_over[1]:+.2f}"),
        *(f"{ssim:.3f}", f"{ssim_over[0]:+.4f}", f"{ssim_over[1]:+.3f}"),
    )


def before_after(lq: Tensor, demo: OSEDiff) -> Tensor:
    """Put an LQ, uint8 (1, 3, h, w), enlarged and restored side by side: (1, 3, 4h, 8w + GAP)."""
    enlarged = resize_bicubic(lq, (lq.shape[2] * SCALE, lq.shape[3] * SCALE))
    restored = to_levels(restore(demo, lq, scale=SCALE))
    white = torch.full((1, 3, enlarged.shape[2], GAP), 255, dtype=torch.uint8)
    return torch.cat([enlarged, white, restored], 3)


def main(argv: list[str] | None = None) -> int:
    """Make what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {COMMAND}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--doc", type=Path, metavar="F.md", help="page to put the tables into")
    parser.add_argument("--picture", type=Path, metavar="F.jpg", help="write the README's picture, no tables")
    args = parser.parse_args(argv)
    start_console()
    try:
        demo = OSEDiff.from_pretrained(device="cpu", dtype="float32")
        if args.picture is not None:
            write_image(args.picture, before_after(read_image(COFFEE).rgb, demo), quality=QUALITY)
        if args.doc is not None or args.picture is None:
            base = OSEDiff.from_pretrained(DEMO_BASE, device="cpu", dtype="float32")
            text = tables(heldout_crops(), base, demo, SEEDS)
            if args.doc is not None:
                write_parts(args.doc, {COMMAND: text})
            show(text)
    except OSEDiffError as error:
        return refuse(error)
    return 0

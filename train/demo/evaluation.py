"""Measure checkpoints on photographs that were never trained on, beside bicubic and the best blur.

python -m train.demo_evaluation                            # the bundled demo on the held-out crops
python -m train.demo_evaluation --base B --weights with.safetensors without.safetensors
python -m train.demo_evaluation --hq FOLDER [--lq FOLDER]  # own photographs; --lq: real pairs of equal names
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from osediff_core.base.load import DEMO_BASE, DEMO_WEIGHTS
from osediff_core.choices import COLORS
from osediff_core.color import to_levels
from osediff_core.commands.console import show
from osediff_core.errors import OSEDiffError
from osediff_core.model import OSEDiff
from osediff_core.pipeline.run import restore
from osediff_core.whole_files import write_whole

from ..degradation import DegradationConfig, degrade_to_lq_size
from ..evaluation import methods
from ..evaluation.fidelity import gaussian_blur, psnr, psnr_y, sharpness, ssim_y
from ..evaluation.methods import BLURS
from ..programs.console import refuse, start_console
from .heldout import as_batch, folder_pictures, heldout_crops

SCALE = 4

Method = Callable[[Tensor], Tensor]
"""LQ uint8 (1, 3, h, w) -> SR float (1, 3, 4h, 4w) in [0, 1]."""


@dataclass(frozen=True)
class HeldOutPair:
    """One picture: HQ float (1, 3, H, W) in [0, 1], and its LQ, uint8 (1, 3, H/4, W/4)."""

    name: str
    hq: Tensor
    lq: Tensor


@dataclass(frozen=True)
class DemoRow:
    """One line of the table, means over the pictures."""

    name: str
    psnr: float
    ssim: float
    sharpness: float
    worst_gain: float = 0.0


def degraded_pairs(pictures: list[tuple[str, Tensor]], seed: int) -> list[HeldOutPair]:
    """Degrade uint8 pictures (3, H, W) with the training pipeline, picture i from seed `seed + i`."""
    pairs = []
    for i, (name, picture) in enumerate(pictures):
        generator = torch.Generator().manual_seed(seed + i)
        hq = as_batch(picture)  # (1, 3, H, W)
        lq = degrade_to_lq_size(hq[0], DegradationConfig(), generator)[None]  # (1, 3, H/4, W/4)
        pairs.append(HeldOutPair(name, hq, to_levels(lq)))
    return pairs


def real_pairs(hq_folder: Path, lq_folder: Path) -> list[HeldOutPair]:
    """Pair the pictures of two folders by name. Raises OSEDiffError when sizes or names do not fit."""
    lq = dict(folder_pictures(lq_folder, 1))
    pairs = []
    for name, picture in folder_pictures(hq_folder, SCALE):
        if name not in lq:
            raise OSEDiffError(f"expected {name} in {lq_folder} too, found no file of that name")
        if tuple(side * SCALE for side in lq[name].shape[1:]) != tuple(picture.shape[1:]):
            raise OSEDiffError(
                f"expected {name} in {lq_folder} at a quarter of the HQ size, got {lq[name].shape[1:]}"
            )
        pairs.append(HeldOutPair(name, as_batch(picture), lq[name][None]))
    return pairs


def bicubic(lq: Tensor) -> Tensor:
    """Return the resize that restoration starts from."""
    return methods.bicubic(lq, SCALE)


def quantise(image: Tensor) -> Tensor:
    """Return what an 8-bit file keeps of (B, 3, H, W) in [0, 1]."""
    return to_levels(image).float() / 255


def measure(
    name: str, method: Method, pairs: list[HeldOutPair], reference: list[float] | None = None
) -> tuple[DemoRow, list[float]]:
    """Run a method over all pairs; also returns its PSNR-Y per picture."""
    values = []
    for pair in pairs:
        sr = quantise(method(pair.lq))
        values.append([psnr_y(sr, pair.hq), ssim_y(sr, pair.hq), sharpness(sr, pair.hq)])
    table = torch.tensor(values)  # (pictures, 3)
    gains = [p - r for p, r in zip(table[:, 0].tolist(), reference, strict=True)] if reference else [0.0]
    return DemoRow(name, *table.mean(0).tolist(), worst_gain=min(gains)), table[:, 0].tolist()


def best_blur(pairs: list[HeldOutPair]) -> list[DemoRow]:
    """Bicubic followed by the Gaussian with the best mean PSNR, and by the one with the best mean SSIM."""
    rows = [
        measure(f"bicubic + blur {sigma:g} px", lambda lq, s=sigma: gaussian_blur(bicubic(lq), s), pairs)[0]
        for sigma in BLURS
    ]
    best = {max(rows, key=lambda row: row.psnr), max(rows, key=lambda row: row.ssim)}
    return [row for row in rows if row in best]


def tabulate(models: dict[str, OSEDiff], pairs: list[HeldOutPair], color: str) -> list[DemoRow]:
    """All rows: bicubic, best blur, then every model."""
    first, reference = measure("bicubic", bicubic, pairs)
    rows = [first, *best_blur(pairs)]
    for name, model in models.items():
        method: Method = lambda lq, m=model: restore(m, lq, scale=SCALE, color=color)  # noqa: E731
        rows.append(measure(name, method, pairs, reference)[0])
    return rows


@torch.no_grad()
def vae_round_trip(base: OSEDiff, pictures: list[Tensor]) -> tuple[float, float]:
    """Mean and worst RGB PSNR of uint8 pictures (3, H, W) through the base's VAE, dB."""
    values = [
        psnr(base.decode(base.encode(as_batch(p))), as_batch(p)).item()
        for p in pictures
        if all(side % base.reduction == 0 for side in p.shape[1:])
    ]
    return sum(values) / len(values), min(values)


def format_table(rows: list[DemoRow]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| | PSNR-Y | SSIM-Y | sharpness | worst picture against bicubic |", "|---|---|---|---|---|"]
    for row in rows:
        worst = f"{row.worst_gain:+.2f} dB" if row.worst_gain else "–"
        lines.append(f"| {row.name} | {row.psnr:.2f} | {row.ssim:.3f} | {row.sharpness:.2f} | {worst} |")
    return "\n".join(lines)


def write_sheet(path: Path, models: dict[str, OSEDiff], pairs: list[HeldOutPair], color: str) -> None:
    """Write a picture with one line a pair: bicubic, every model, HQ."""
    from osediff_core.pictures.images import write_image

    lines = []
    for pair in pairs:
        columns = [bicubic(pair.lq), *(restore(m, pair.lq, color=color) for m in models.values()), pair.hq]
        lines.append(torch.cat(columns, 3))
    write_image(path, torch.cat(lines, 2))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m train.demo_evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--base", type=Path, default=DEMO_BASE, help="folder of the base; default: the demo's"
    )
    parser.add_argument(
        "--weights", type=Path, nargs="*", default=[DEMO_WEIGHTS], help="checkpoints, one row each"
    )
    parser.add_argument("--hq", type=Path, help="folder of HQ photographs instead of the held-out crops")
    parser.add_argument("--lq", type=Path, help="folder of their real LQ at a quarter of the size")
    parser.add_argument("--color", default="adain", choices=COLORS)
    parser.add_argument("--seed", type=int, default=1000, help="picture i is degraded from seed + i")
    parser.add_argument("--sheet", type=Path, help="write a comparison picture of the first pairs")
    parser.add_argument("--json", type=Path, help="write the rows as JSON too")
    args = parser.parse_args(argv)
    if args.lq and not args.hq:
        parser.error("--lq needs --hq, the folder with the originals of the same names")
    return args


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    args = parse(argv)
    start_console()
    try:
        pictures = heldout_crops() if args.hq is None else folder_pictures(args.hq, SCALE * 4)
        pairs = real_pairs(args.hq, args.lq) if args.hq and args.lq else degraded_pairs(pictures, args.seed)
        base = OSEDiff.from_pretrained(args.base, device="cpu", dtype="float32")
        models = {"base without a checkpoint": base}
        for path in args.weights:
            models[path.stem] = OSEDiff.from_pretrained(args.base, path, device="cpu", dtype="float32")
        rows = tabulate(models, pairs, args.color)
        mean, worst = vae_round_trip(base, [picture for _, picture in pictures])
        if args.sheet:
            write_sheet(args.sheet, models, pairs[::5][:6], args.color)
        if args.json:
            write_whole(args.json, json.dumps([vars(row) for row in rows], indent=2).encode())
    except OSEDiffError as error:
        return refuse(error)
    show(
        f"{len(pairs)} pictures, colours: {args.color}\n\n{format_table(rows)}\n\n"
        f"VAE round trip, RGB PSNR: mean {mean:.1f} dB, worst picture {worst:.1f} dB"
    )
    return 0

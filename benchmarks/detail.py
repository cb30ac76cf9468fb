"""Three ways to dial a trained model from faithful to generative, measured: `python benchmarks/detail.py`.

strength   scales the LoRA (and interpolates conv_in) before the model runs
timestep   takes the step from t = dial * 999 rather than from 999
blend      moves the latent from z_lq (0) through z_hq (1) and beyond

Needs the `pictures` and `eval` extras: the photographs are the held-out ones of the demo's own table.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from osediff_core import OSEDiff
from osediff_core.pictures.images import write_image
from osediff_core.pipeline.plan import make_plan
from osediff_core.pipeline.run import decode, denoise, encode, encode_prompt, finish, prepare
from osediff_core.pipeline.runtime import Runtime
from train.demo.evaluation import HeldOutPair, bicubic, degraded_pairs, measure, quantise
from train.demo.heldout import heldout_crops
from train.evaluation.fidelity import psnr_y

DIALS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
SCALE = 4


def one_step(model: OSEDiff, lq: Tensor, blend: float = 1.0) -> Tensor:
    """Restore uint8 (1, 3, h, w), the latent blended: (1, 3, 4h, 4w) in [0, 1]."""
    runtime = Runtime()
    plan = make_plan(model, *lq.shape[-2:], scale=SCALE, runtime=runtime)
    x = prepare(lq, plan)
    z_lq = encode(model, x, plan, runtime)  # (1, C, h, w)
    z_hq = denoise(model, z_lq, encode_prompt(model, [""], runtime), plan, runtime)  # (1, C, h, w)
    return finish(decode(model, torch.lerp(z_lq, z_hq, blend), plan, runtime), x, plan.size)


def _kept(done: list[Tensor], model: OSEDiff, blend: float, lq: Tensor) -> Tensor:
    """Restore a picture, and keep it in `done` too."""
    done.append(one_step(model, lq, blend))
    return done[-1]


def with_timestep(model: OSEDiff, dial: float) -> OSEDiff:
    """Start the model's step at `dial` of the last timestep, which is as far as a schedule goes."""
    model.timestep = round(dial * (len(model.alphas_cumprod) - 1))
    return model


def models_of(dial: float, base: str | None, weights: str | None) -> dict[str, tuple[OSEDiff, float]]:
    """Every way at one setting: a model, and how far its latent is blended."""

    def load(strength: float = 1.0) -> OSEDiff:
        return OSEDiff.from_pretrained(base, weights, strength=strength, device="cpu", dtype="float32")

    ways = {"strength": (load(dial), 1.0), "blend": (load(), dial)}
    if dial <= 1:
        ways["timestep"] = (with_timestep(load(), dial), 1.0)
    return ways


def table(pairs: list[HeldOutPair], base: str | None, weights: str | None) -> str:
    """All ways at all settings as a Markdown table; distance is PSNR-Y to the upscaled input."""
    lines = ["| way | dial | PSNR-Y | SSIM-Y | sharpness | PSNR-Y to bicubic |", "|---|---|---|---|---|---|"]
    row, _ = measure("bicubic", bicubic, pairs)
    lines.append(f"| bicubic | | {row.psnr:.2f} | {row.ssim:.3f} | {row.sharpness:.2f} | |")
    for dial in DIALS:
        for name, (model, blend) in sorted(models_of(dial, base, weights).items()):
            done: list[Tensor] = []
            row, _ = measure(name, partial(_kept, done, model, blend), pairs)
            near = [psnr_y(quantise(sr), bicubic(p.lq)).item() for sr, p in zip(done, pairs, strict=True)]
            lines.append(
                f"| {name} | {dial:g} | {row.psnr:.2f} | {row.ssim:.3f} | {row.sharpness:.2f} "
                f"| {sum(near) / len(near):.1f} |"
            )
    return "\n".join(lines)


def write_strips(path: Path, pairs: list[HeldOutPair], base: str | None, weights: str | None) -> None:
    """Write one picture: a row for each way, a column for each setting up to 1.5."""
    rows = {name: [] for name in ("strength", "timestep", "blend")}
    for dial in DIALS:
        ways = models_of(dial, base, weights)
        for name, columns in rows.items():
            model, blend = ways.get(name, (None, 1.0))
            shown = torch.ones_like(pairs[0].hq) if model is None else one_step(model, pairs[0].lq, blend)
            columns.append(shown)
    write_image(path, torch.cat([torch.cat(columns, 3) for columns in rows.values()], 2))


def main() -> None:
    """Print the table, and write the pictures where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base")
    parser.add_argument("--weights")
    parser.add_argument("--every", type=int, default=1, help="measure every so many of the held-out crops")
    parser.add_argument("--sheet", type=Path, help="write pictures of one crop")
    parser.add_argument("--crop", type=int, default=4, help="which crop the pictures show")
    args = parser.parse_args()
    pairs = degraded_pairs(heldout_crops(), 1000)
    print(table(pairs[:: args.every], args.base, args.weights))
    if args.sheet:
        write_strips(args.sheet, pairs[args.crop :], args.base, args.weights)


if __name__ == "__main__":
    main()

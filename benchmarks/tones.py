"""Does a model keep tones, and does it take noise out? `python -m benchmarks.tones [FOLDER ...]`

Tones: photographs are shrunk to a quarter, which is all that happens to them, and restored. Averages of
32x32 pixels of what comes out are compared with those of the same places of the input, in levels of 255:
the root of their mean square, and the worst hundredth. Each picture is taken as it is, darkened, and in blue
light.

Noise: flat grey with Gaussian noise of a known deviation is restored, without the colour fix, which would
give the noise's contrast back. The deviation that is left is compared with what bicubic leaves.

The photographs are the held-out ones of the demo's own table, whole (needs the `pictures` extra), or those of
the folders.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from osediff_core import OSEDiff, restore
from osediff_core.choices import COLORS
from osediff_core.resize import resize_bicubic
from train.demo.evaluation import quantise
from train.demo.heldout import HELD_OUT, folder_pictures, read_heldout
from train.evaluation.artifacts import SQUARE, tone_errors

SCALE = 4
NOISES = (1, 10, 20, 40)
"""Deviations of the noise, levels."""
GREY, SIDE, SEEDS = 128, 48, 4
LIGHTS = {"as it is": (1.0, 1.0, 1.0), "dark": (0.4, 0.4, 0.4), "blue": (0.5, 0.7, 1.0)}
"""Factors on red, green and blue."""


def shrink(picture: Tensor) -> Tensor:
    """Shrink uint8 (3, H, W) to a quarter, cut so that squares fit: float (1, 3, h, w) in [0, 1]."""
    height, width = (side // SQUARE * SQUARE for side in picture.shape[1:])
    hq = picture[None, :, :height, :width]
    return resize_bicubic(hq, (height // SCALE, width // SCALE)).float() / 255


def light(lq: Tensor, factors: tuple[float, float, float]) -> Tensor:
    """Multiply the channels of (1, 3, h, w), rounded to 8 bits."""
    return quantise(lq * torch.tensor(factors).view(1, 3, 1, 1))


def tone_row(model: OSEDiff, name: str, pictures: list[Tensor], color: str) -> str:
    """Restore uint8 pictures (3, H, W) under every light; the line of the table."""
    cells, shrunk = [], [shrink(picture) for picture in pictures]
    for factors in LIGHTS.values():
        lqs = [light(lq, factors) for lq in shrunk]
        errors = torch.cat([tone_errors(restore(model, lq, scale=SCALE, color=color), lq) for lq in lqs])
        cells.append(f"{errors.square().mean().sqrt():.2f} / {errors.abs().quantile(0.99):.1f}")
    return f"| {name} | {color} | {' | '.join(cells)} |"


def noise_left(model: OSEDiff, deviation: float) -> tuple[float, float]:
    """Deviation that the model leaves of noise on grey, and that bicubic leaves, both in levels.

    In the middle of the picture, each channel's around its own mean; mean of SEEDS pictures.
    """
    left = []
    for seed in range(SEEDS):
        noise = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
        lq = ((GREY + deviation * noise).round().clamp(0, 255) / 255).float()
        enlarged = resize_bicubic(lq, (SCALE * SIDE, SCALE * SIDE))
        left.append([spread(image) for image in (restore(model, lq, scale=SCALE, color="none"), enlarged)])
    ours, theirs = torch.tensor(left).mean(0).tolist()
    return ours, theirs


def spread(image: Tensor) -> float:
    """Deviation of (1, 3, H, W) within its channels, levels; SQUARE pixels at each edge left out."""
    inside = image[..., SQUARE:-SQUARE, SQUARE:-SQUARE]
    return 255 * inside.flatten(2).std(2).mean().item()


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, help="photographs instead of the held-out ones")
    parser.add_argument("--base")
    parser.add_argument("--weights")
    args = parser.parse_args()
    model = OSEDiff.from_pretrained(args.base, args.weights, device="cpu", dtype="float32")
    groups = {str(folder): [p for _, p in folder_pictures(folder, 1)] for folder in args.folders}
    groups = groups or {name: [read_heldout(name)] for name in HELD_OUT}

    print(f"| photographs | colours | {' | '.join(LIGHTS)} |\n|---|---|{'---|' * len(LIGHTS)}")
    for name, pictures in groups.items():
        for color in COLORS:
            print(tone_row(model, name, pictures, color), flush=True)
    print("\n| noise, levels | left by bicubic | left by the model | share |\n|---|---|---|---|")
    for deviation in NOISES:
        ours, theirs = noise_left(model, deviation)
        print(f"| {deviation} | {theirs:.2f} | {ours:.2f} | {ours / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()

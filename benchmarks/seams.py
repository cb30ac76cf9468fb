"""Are there seams? The energy of differences where tiles begin, end and meet, against that elsewhere.

    python benchmarks/seams.py                       # the demo, on gradients
    python benchmarks/seams.py photo.jpg ... --base B --weights W

A picture is restored in tiles, and the columns and rows where tiles begin or end, and those in the middle of
overlaps, where one tile's weight outgrows the other's, are compared with all others, in 8 bits as pictures
are saved: up to 1 there is no seam. Beside it the same lines of the picture restored whole, and two that must
be above 1: a step of one level planted on these lines, and tiles without overlap, which do have seams.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from osediff_core import OSEDiff, restore
from osediff_core.pipeline.unet_tiles import Box, grid
from train.demo.evaluation import quantise
from train.evaluation.artifacts import borders, seam_ratio

LEVEL = 1 / 255


def planted(image: Tensor, boxes: list[Box], reduction: int, step: float = LEVEL) -> Tensor:
    """Return the image with every other band between borders brighter by `step`."""
    image = image.clone()
    for axis in (0, 1):
        edges = borders(boxes, axis, reduction)
        for low, high in zip(edges[::2], [*edges[1::2], image.shape[2 + axis]], strict=False):
            image.narrow(2 + axis, low, high - low).add_(step)
    return image


def gradients(height: int, width: int) -> dict[str, Tensor]:
    """Return smooth pictures, (1, 3, height, width) in [0, 1]: a slope, a disc of light, and a slow wave."""
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    shapes = {
        "slope": 0.2 + 0.3 * x + 0.3 * y,
        "disc": 0.8 - 0.6 * ((x - 0.5) ** 2 + (y - 0.5) ** 2),
        "wave": 0.5 + 0.3 * torch.sin(5 * x + 3 * y),
    }
    return {name: shape.expand(1, 3, -1, -1).clone() for name, shape in shapes.items()}


def row(model: OSEDiff, name: str, lq: Tensor, tile: int, overlap: int) -> str:
    """Restore a picture in tiles and return its line of the table."""
    f = model.reduction
    height, width = (side * 4 for side in lq.shape[-2:])
    boxes = grid(-(-height // f), -(-width // f), tile, overlap)
    if len(boxes) == 1:
        return f"| {name} | fits one tile: nothing to measure | | | |"
    ratios = []
    image = restore(model, lq, tile=tile, overlap=overlap)
    for picture in (image, restore(model, lq, tile="off"), planted(image, boxes, f)):
        ratios.append(seam_ratio(quantise(picture), boxes, f))
    bare = grid(-(-height // f), -(-width // f), tile, 0)
    ratios.append(seam_ratio(quantise(restore(model, lq, tile=tile, overlap=0)), bare, f))
    return f"| {name} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("pictures", nargs="*", type=Path, help="low-quality photographs (default: made gradients)")
    add("--base")
    add("--weights")
    add("--tile", type=int, default=32, help="latent pixels")
    add("--overlap", type=int, default=10, help="latent pixels")
    add("--size", type=int, nargs=2, default=(72, 88), help="of the made gradients, before they are enlarged")
    args = parser.parse_args()
    model = OSEDiff.from_pretrained(args.base, args.weights)
    print(f"tiles of {args.tile}, overlap {args.overlap}\n")
    print("| picture | tiles | the same lines, whole | a planted level | no overlap |\n|---|---|---|---|---|")
    for name, picture in gradients(*args.size).items():
        print(row(model, name, picture, args.tile, args.overlap), flush=True)
    for path in args.pictures:
        from osediff_core.pictures.images import read_image

        print(row(model, path.name, read_image(path).rgb, args.tile, args.overlap), flush=True)


if __name__ == "__main__":
    main()

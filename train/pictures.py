"""Write a folder of training pictures that may be used freely: `python -m train.pictures OUT_DIR`.

Photographs come from what scikit-image and scikit-learn install (nothing is downloaded), the rest are
synthetic. The photographs that the quality table is measured on (`train.heldout`) never go in.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .dead_leaves import dead_leaves

SKIMAGE_PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
)
"""Sharp pictures in scikit-image's wheel; blurred or tiny ones (clock, text, cell, ...) would teach blur."""

SKLEARN_PHOTOGRAPHS = ("china.jpg", "flower.jpg")
"""CC BY 2.0: china by danielbuechele, flower by vultilion, both from flickr."""


def bundled_photographs() -> list[Path]:
    """List the photographs that scikit-image and scikit-learn bring along, without importing either.

    Raises FileNotFoundError that names the package to install when one is absent.
    """
    folders = {
        "skimage": ("data", SKIMAGE_PHOTOGRAPHS, "scikit-image"),
        "sklearn": ("datasets/images", SKLEARN_PHOTOGRAPHS, "scikit-learn"),
    }
    found: list[Path] = []
    for module, (folder, names, package) in folders.items():
        spec = find_spec(module)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"The training photographs come with {package}: pip install {package}.")
        root = Path(spec.origin).parent / folder
        found += [root / name for name in names if (root / name).is_file()]
    return found


def write_photographs(folder: Path) -> list[Path]:
    """Copy the bundled photographs as sRGB PNG into the folder; returns the files written."""
    from osediff_core.pictures.images import read_image

    written = []
    for source in bundled_photographs():
        target = folder / f"photo_{source.stem}.png"
        _to_pil(read_image(source).rgb[0]).save(target)
        written.append(target)
    return written


def write_leaves(folder: Path, count: int, seed: int, size: int = 512) -> list[Path]:
    """Paint `count` dead-leaves pictures of size x size pixels; picture i depends on (seed, i) alone."""
    written = []
    for index in range(count):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        target = folder / f"leaves_{seed}_{index:04d}.png"
        _to_pil(dead_leaves(size, generator).mul(255).round().byte()).save(target)
        written.append(target)
    return written


def _to_pil(picture: Tensor) -> Image.Image:
    """Hand a uint8 picture (3, H, W) to Pillow."""
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())


def main(argv: list[str] | None = None) -> int:
    """Write the pictures; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.pictures", description="Write training pictures that may be used freely."
    )
    parser.add_argument("out_dir", type=Path, help="folder that gets the PNG files; made if absent")
    parser.add_argument("--leaves", type=int, default=60, help="number of synthetic pictures (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the synthetic pictures (default 0)")
    args = parser.parse_args(argv)
    try:
        args.out_dir.mkdir(parents=True, exist_ok=True)
        photographs = write_photographs(args.out_dir)
        leaves = write_leaves(args.out_dir, args.leaves, args.seed)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{len(photographs)} photographs and {len(leaves)} leaves in {args.out_dir}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

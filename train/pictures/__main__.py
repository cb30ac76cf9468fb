"""Write a folder of training pictures that may be used freely: `python -m train.pictures OUT_DIR`.

Photographs come from what scikit-image and scikit-learn install (nothing is downloaded), the rest are
synthetic. With `--more SHARE`, photographs of six Debian packages go in too (`more_photographs`). The
photographs that the quality table is measured on (`train.demo.heldout`) never go in.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from osediff_core.color import to_levels
from osediff_core.commands.console import show
from osediff_core.errors import OSEDiffError, printable
from osediff_core.pictures.images import read_image, write_image
from osediff_core.whole_files import sweep

from ..programs.console import start_console
from .dead_leaves import dead_leaves
from .more_photographs import MORE, Photograph, crops_to_choose_by, shrunken

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
            raise FileNotFoundError(
                f"The training photographs come with {package}: pip install -e .[pictures] gets them all"
            )
        root = Path(spec.origin).parent / folder
        found += [root / name for name in names if (root / name).is_file()]
    return found


def write_photographs(folder: Path) -> list[Path]:
    """Copy the bundled photographs as sRGB PNG into the folder; returns the files written."""
    written = []
    for source in bundled_photographs():
        target = folder / f"photo_{source.stem}.png"
        write_image(target, read_image(source).rgb)
        written.append(target)
    return written


def write_more(share: Path, folder: Path, wanted: Sequence[Photograph] = MORE) -> list[Path]:
    """Shrink the packages' photographs below `share` into the folder; returns the files written.

    Those kept for choosing among models go into its subfolder "validation", cut into crops: what reads the
    pictures of the folder for training does not look there. Raises FileNotFoundError that names the package
    of the first absent one.
    """
    for photograph in wanted:
        if not (share / photograph.file).is_file():
            raise FileNotFoundError(
                f"Expected {photograph.file} below {share}: install Debian's package {photograph.package}, "
                "or unpack it and name its folder usr/share."
            )
    (folder / "validation").mkdir(exist_ok=True)
    sweep(folder / "validation")
    written = []
    for photograph in wanted:
        name, picture = Path(photograph.file).stem, shrunken(read_image(share / photograph.file).rgb[0])
        pieces = {f"{photograph.group}_{name}": picture}
        if photograph.choosing:
            pieces = {f"validation/{name}_{n}": crop for n, crop in enumerate(crops_to_choose_by(picture))}
        for piece, pixels in pieces.items():
            write_image(folder / f"{piece}.png", pixels[None])
            written.append(folder / f"{piece}.png")
    return written


def write_leaves(folder: Path, count: int, seed: int, size: int = 512) -> list[Path]:
    """Paint `count` dead-leaves pictures of size x size pixels; picture i depends on (seed, i) alone."""
    written = []
    for index in range(count):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        target = folder / f"leaves_{seed}_{index:04d}.png"
        write_image(target, to_levels(dead_leaves(size, generator))[None])
        written.append(target)
    return written


def main(argv: list[str] | None = None) -> int:
    """Write the pictures; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.pictures", description="Write training pictures that may be used freely."
    )
    parser.add_argument("out_dir", type=Path, help="folder that gets the PNG files; made if absent")
    parser.add_argument("--more", type=Path, help="/usr/share where the Debian packages are installed")
    parser.add_argument("--leaves", type=int, default=60, help="number of synthetic pictures (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the synthetic pictures (default 0)")
    args = parser.parse_args(argv)
    start_console()
    try:
        args.out_dir.mkdir(parents=True, exist_ok=True)
        sweep(args.out_dir)
        photographs = write_photographs(args.out_dir)
        more = write_more(args.more, args.out_dir) if args.more else []
        leaves = write_leaves(args.out_dir, args.leaves, args.seed)
    except (OSError, OSEDiffError) as error:
        sys.stderr.write(f"{printable(error)}\n")
        return 1
    crops = [path for path in more if path.parent != args.out_dir]
    kept_out = f", {len(crops)} crops in {args.out_dir / 'validation'}" if crops else ""
    count = len(photographs) + len(more) - len(crops)
    show(f"{count} photographs and {len(leaves)} leaves in {args.out_dir}{kept_out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

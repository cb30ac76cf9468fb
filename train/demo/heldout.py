"""The held-out photographs of the demo's table: never trained on, free to ship (CC0), from scikit-image."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from osediff_core.errors import OSEDiffError

HELD_OUT = ("chelsea", "coffee", "rocket")
"""Sources that no training picture comes from."""
CROP = 192
"""Side of the crops, pixels."""


def read_heldout(name: str) -> Tensor:
    """Read one held-out photograph, uint8 (3, H, W). Raises OSEDiffError without scikit-image."""
    from osediff_core.pictures.images import read_image

    try:
        import skimage.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise OSEDiffError(
            "the held-out photographs come with scikit-image: pip install -e .[pictures]"
        ) from error
    folder = Path(skimage.data.__file__).parent
    found = sorted(folder.glob(f"{name}.*g"))
    if not found:
        raise OSEDiffError(f"expected {name} in scikit-image's data folder {folder}, it is not bundled there")
    return read_image(found[0]).rgb[0]


def spread(side: int, crop: int) -> list[int]:
    """Return starts of the fewest crops that cover `side`, evenly spaced."""
    count = -(-side // crop)
    return [round(i * (side - crop) / max(1, count - 1)) for i in range(count)]


def heldout_crops(crop: int = CROP) -> list[tuple[str, Tensor]]:
    """Cut every held-out photograph into named crops, uint8 (3, crop, crop): 30 for the default side."""
    crops = []
    for name in HELD_OUT:
        picture = read_heldout(name)
        for top in spread(picture.shape[1], crop):
            for left in spread(picture.shape[2], crop):
                crops.append((f"{name}_{top}_{left}", picture[:, top : top + crop, left : left + crop]))
    return crops


def folder_pictures(folder: str | Path, multiple: int) -> list[tuple[str, Tensor]]:
    """Read the pictures of a folder, cropped at the right and bottom to a multiple of `multiple` pixels."""
    from ..base.crops import load_pictures

    pictures = []
    for name, picture in load_pictures(folder):
        height, width = (side // multiple * multiple for side in picture.shape[1:])
        pictures.append((name, picture[:, :height, :width]))
    return pictures


def as_batch(picture: Tensor) -> Tensor:
    """uint8 (3, H, W) to float (1, 3, H, W) in [0, 1]."""
    return picture[None].to(torch.float32) / 255

"""Random crops of clean pictures, all held in memory: a small base is trained from few pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.files import PICTURES
from osediff_core.pictures.find import find_files

from ..randomness.sampling import uniform


def load_pictures(folder: str | Path) -> list[tuple[str, Tensor]]:
    """Read every picture of a folder: (name, uint8 (3, H, W)), sorted by name.

    Raises OSEDiffError when the folder holds no picture, or one with pixels that cannot be seen.
    """
    from osediff_core.pictures.images import read_image
    from osediff_core.transparency import visible

    paths = find_files(Path(folder), PICTURES, recursive=False).files if Path(folder).is_dir() else []
    if not paths:
        raise OSEDiffError(
            f"expected pictures in {folder}, found none: run `python -m train.pictures {folder}` first"
        )
    pictures = [(p, read_image(p)) for p in paths]
    for path, picture in pictures:
        if picture.alpha is not None and not visible(picture.alpha).all():
            raise OSEDiffError(
                f"{path} is transparent in parts, and a base is trained on all of a picture: lay it on a "
                "background first"
            )
    return [(path.stem, picture.rgb[0]) for path, picture in pictures]


def add_smaller_copies(pictures: Sequence[Tensor], scales: Sequence[float]) -> list[Tensor]:
    """Every uint8 picture (3, H, W) with its shrunken copies behind it: finer detail from few pictures."""
    from osediff_core.resize import resize_bicubic

    copies = [[picture] for picture in pictures]
    for kept, picture in zip(copies, pictures, strict=True):
        for scale in scales:
            size = (round(picture.shape[1] * scale), round(picture.shape[2] * scale))
            kept.append(resize_bicubic(picture[None], size)[0])
    return [picture for kept in copies for picture in kept]


def draw_crop(picture: Tensor, generator: torch.Generator, size: int) -> Tensor:
    """Cut a random (3, size, size) float crop in [0, 1] of uint8 (3, H, W), flipped and turned at random."""
    height, width = picture.shape[1:]
    top = int(uniform(generator, 0, height - size + 1))
    left = int(uniform(generator, 0, width - size + 1))
    crop = picture[:, top : top + size, left : left + size].float() / 255  # (3, size, size)
    if uniform(generator, 0, 1) < 0.5:
        crop = crop.flip(2)
    return crop.rot90(int(uniform(generator, 0, 4)), (1, 2))


def draw_batch(
    pictures: Sequence[Tensor],
    weights: Tensor,
    count: int,
    cut: Callable[[Tensor, torch.Generator], Tensor],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw `count` crops: (count, 3, size, size) in [0, 1], and the index of the picture each came from."""
    chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
    return torch.stack([cut(pictures[i], generator) for i in chosen.tolist()]), chosen

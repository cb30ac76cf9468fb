"""Run a function over overlapping tiles of a latent and blend the results with Gaussian weights.

Latent tiling as in the published code, with two repairs: the window is symmetric, and a picture narrower
than the overlap is tiled by rectangles, where the published grid never ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import OSEDiffError


class Box(NamedTuple):
    """A tile's place in a latent, in latent pixels."""

    y: int
    x: int
    height: int
    width: int


def gaussian_window(height: int, width: int, *, variance: float = 0.01, window: str = "symmetric") -> Tensor:
    """Return the blending weights of one tile, (height, width) float64, all positive.

    A Gaussian of `variance` tile sides squared around the tile's centre, (n - 1) / 2. window="published" puts
    the vertical centre at height / 2, half a pixel too low, as the published code does.
    """
    if window not in ("symmetric", "published"):
        raise OSEDiffError(f"the window is symmetric or published, got {window!r}")
    down = height / 2 if window == "published" else (height - 1) / 2
    gy = _gaussian(height, down, variance)  # (height,)
    gx = _gaussian(width, (width - 1) / 2, variance)  # (width,)
    return gy[:, None] * gx[None, :]  # (height, width)


def _gaussian(n: int, centre: float, variance: float) -> Tensor:
    """Return a Gaussian density over `n` pixels whose unit of length is the tile side, (n,) float64."""
    i = torch.arange(n, dtype=torch.float64)
    return torch.exp(-((i - centre) ** 2) / n**2 / (2 * variance)) / (2 * torch.pi * variance) ** 0.5


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles start on an axis: every tile - overlap pixels, the last one flush with the end."""
    if tile >= length:
        return [0]
    stride = tile - overlap
    count = -(-(length - tile) // stride) + 1
    return [*range(0, (count - 1) * stride, stride), length - tile]


def grid(height: int, width: int, tile: int | None, overlap: int) -> list[Box]:
    """Return the tiles of a (height, width) latent, in the published order: column by column, downwards.

    tile: side in latent pixels, used only if the latent has more than tile^2 pixels; None means one tile.
    The tile shrinks to a square that fits the picture; where that square would be mostly overlap, it is a
    rectangle as high or as wide as the picture instead. Raises OSEDiffError if tile < 1 or overlap is not in
    [0, tile).
    """
    if tile is not None:
        _check(tile, overlap)
    if tile is None or height * width <= tile**2:
        return [Box(0, 0, height, width)]
    side = min(tile, height, width)
    if side < tile and side <= 2 * overlap:
        th, tw = min(tile, height), min(tile, width)
    else:
        th = tw = side
    return [
        Box(y, x, th, tw) for x in tile_starts(width, tw, overlap) for y in tile_starts(height, th, overlap)
    ]


def _check(tile: int, overlap: int) -> None:
    if tile < 1:
        raise OSEDiffError(f"a tile is at least 1 latent pixel wide, got {tile}: 96 is the published choice")
    if not 0 <= overlap < tile:
        raise OSEDiffError(
            f"the overlap of tiles must be at least 0 and smaller than the tile, got overlap {overlap} and "
            f"tile {tile}: a third of the tile is the published choice"
        )


def tiled(
    fn: Callable[[Tensor, Sequence[Box]], Tensor],
    z: Tensor,
    tile: int | None,
    overlap: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    window: str = "symmetric",
) -> Tensor:
    """Return `fn` of the latent `z`, (B, C, h, w) float32, computed tile by tile and blended.

    fn(tiles, boxes) gets the pixels of the tiles, (B, C, th, tw), and their places (one for now), and returns
    a tensor of the same shape. progress(done, total) is called after every tile and may raise to stop.
    """
    boxes = grid(z.shape[-2], z.shape[-1], tile, overlap)
    weights = gaussian_window(boxes[0].height, boxes[0].width, window=window).float().to(z.device)  # (th, tw)
    total = torch.zeros(z.shape, dtype=torch.float32, device=z.device)  # (B, C, h, w)
    weight = torch.zeros(z.shape[-2:], dtype=torch.float32, device=z.device)  # (h, w)
    for done, box in enumerate(boxes, start=1):
        here = (..., slice(box.y, box.y + box.height), slice(box.x, box.x + box.width))
        out = fn(z[here], [box]).float()  # (B, C, th, tw)
        if len(boxes) == 1:
            total = out
        else:
            total[here] += out * weights
            weight[here] += weights
        if progress is not None:
            progress(done, len(boxes))
    return total if len(boxes) == 1 else total / weight

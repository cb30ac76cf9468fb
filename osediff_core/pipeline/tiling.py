"""Run a function over overlapping tiles of a latent and blend the results with smooth weights.

Latent tiling as in the published code, with two repairs: tiles go over into each other along the whole of
their overlap, where the published window takes a fifth of it and leaves a seam between tiles that differ in
tone; and a picture narrower than the overlap is tiled by rectangles, where the published grid never ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from types import EllipsisType
from typing import NamedTuple

import torch
from torch import Tensor

from ..device.memory import is_out_of_memory, release, upload
from ..errors import OSEDiffError

VARIANCE = 0.01  # of the Gaussian window, in tile sides squared: the published one

logger = logging.getLogger(__name__)


class Box(NamedTuple):
    """A tile's place in a latent, in latent pixels."""

    y: int
    x: int
    height: int
    width: int


def blending_window(height: int, width: int, overlap: int, window: str = "smooth") -> Tensor:
    """Return the blending weights of one tile, (height, width) float64, all positive.

    "smooth": 1 in the middle, falling as a squared sine to nothing over the `overlap` latent pixels at each
    border. "symmetric" and "published": see `gaussian_window`. Raises OSEDiffError for another name.
    """
    if window == "smooth":
        return _ramps(height, overlap)[:, None] * _ramps(width, overlap)[None, :]
    return gaussian_window(height, width, window=window)


def _ramps(n: int, overlap: int) -> Tensor:
    """Return the smooth window of one axis, (n,) float64; neighbours' shares add up to 1 as they are."""
    i = torch.arange(n, dtype=torch.float64) + 0.5  # centres of the pixels
    inside = torch.minimum(i, n - i) / max(overlap, 0.5)  # 0.5: without an overlap nothing is on a ramp
    return torch.sin(torch.pi / 2 * inside.clamp(max=1)) ** 2


def gaussian_window(height: int, width: int, *, window: str = "symmetric") -> Tensor:
    """Return Gaussian weights of one tile, (height, width) float64, all positive.

    The variance is VARIANCE tile sides squared, the centre (n - 1) / 2. window="published" puts the vertical
    centre at height / 2, half a pixel too low, as the published code does.
    """
    if window not in ("symmetric", "published"):
        raise OSEDiffError(f"the window is smooth, symmetric or published, got {window!r}")
    row = height / 2 if window == "published" else (height - 1) / 2
    return _gaussian(height, row)[:, None] * _gaussian(width, (width - 1) / 2)[None, :]  # (height, width)


def _gaussian(n: int, centre: float) -> Tensor:
    """Return a Gaussian density over `n` pixels whose unit of length is the tile side, (n,) float64."""
    i = torch.arange(n, dtype=torch.float64)
    return torch.exp(-((i - centre) ** 2) / n**2 / (2 * VARIANCE)) / (2 * torch.pi * VARIANCE) ** 0.5


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
    window: str = "smooth",
    batch: int = 1,
) -> Tensor:
    """Return `fn` of the latent `z`, (B, C, h, w) float32, computed tile by tile and blended.

    fn(tiles, boxes) gets the pixels of at most `batch` tiles, (n B, C, th, tw), and their n places, and
    returns a tensor of the same shape. Where memory runs out for several tiles at once, half as many are
    taken from there on, and what is done is kept. progress(done, total) is called after every tile and may
    raise to stop.
    """
    boxes = grid(z.shape[-2], z.shape[-1], tile, overlap)
    weights = blending_window(boxes[0].height, boxes[0].width, overlap, window)
    weights = upload(weights.float(), z.device)  # (th, tw)
    total = torch.zeros(z.shape, dtype=torch.float32, device=z.device)  # (B, C, h, w)
    weight = torch.zeros(z.shape[-2:], dtype=torch.float32, device=z.device)  # (h, w)
    for done, (box, out) in enumerate(_by_batches(fn, z, boxes, batch), start=1):
        here = _at(box)
        if len(boxes) == 1:
            total = out
        else:
            total[here] += out * weights
            weight[here] += weights
        if progress is not None:
            progress(done, len(boxes))
    return total if len(boxes) == 1 else total / weight


def _at(box: Box) -> tuple[EllipsisType, slice, slice]:
    return ..., slice(box.y, box.y + box.height), slice(box.x, box.x + box.width)


def _by_batches(
    fn: Callable[[Tensor, Sequence[Box]], Tensor], z: Tensor, boxes: Sequence[Box], batch: int
) -> Iterator[tuple[Box, Tensor]]:
    """Yield every tile's place and its result, (B, C, th, tw) float32, computed some at a time."""
    begun = 0
    while begun < len(boxes):
        now = boxes[begun : begun + batch]
        try:
            out = fn(torch.cat([z[_at(box)] for box in now]) if len(now) > 1 else z[_at(now[0])], now).float()
        except Exception as error:
            if len(now) == 1 or not is_out_of_memory(error):
                raise
            out = None
        if out is None:  # out of the handler, for the error holds the memory of what failed
            batch = len(now) // 2
            logger.warning("memory ran out with %d tiles at once; going on with %d", len(now), batch)
            release()
            continue
        yield from zip(now, out.split(len(z)), strict=True)
        begun += len(now)

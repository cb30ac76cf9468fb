"""Run the UNet over overlapping tiles of a latent and blend what it gives with smooth weights.

Latent tiling as in the published code, with two repairs: tiles go over into each other along the whole of
their overlap, where the published window takes a fifth of it and leaves a seam between tiles that differ in
tone; and a picture narrower than the overlap is tiled by rectangles, where the published grid never ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import EllipsisType
from typing import NamedTuple

import torch
from torch import Tensor

from ..device.memory import upload
from ..errors import OSEDiffError


class Box(NamedTuple):
    """A tile's place in a latent, in latent pixels."""

    y: int
    x: int
    height: int
    width: int


@dataclass(frozen=True)
class UNetPlan:
    """How the UNet runs on a latent (height, width): whole (side None) or by tiles, so many at once."""

    height: int
    width: int
    side: int | None
    overlap: int
    at_once: int = 1
    device_bytes: int = 0

    @cached_property
    def boxes(self) -> list[Box]:
        """The tiles; OSEDiffError for a side or an overlap that cannot be."""
        return grid(self.height, self.width, self.side, self.overlap)

    def __str__(self) -> str:
        """Say it for the log."""
        if self.side is None:
            return "the UNet's picture whole"
        several = f", {self.at_once} at once" if self.at_once > 1 else ""
        return f"tiles of {self.side} latent pixels for the UNet{several}"


def predict_in_tiles(
    predict: Callable[..., Tensor],
    on_step: Callable[[int], object],
    plan: UNetPlan,
    z: Tensor,
    *beside: Tensor,
    before: int = 0,
) -> Tensor:
    """Return what `predict` gives for the latent z, (B, C, h, w) float32, tile by tile and blended.

    predict: (n B, C, th, tw) and `beside` to that shape, for n tiles at once. on_step(done) is called after
    every tile, or every B latents of one tile, and may raise to stop. before: what `done` begins after.
    """
    boxes = plan.boxes
    if len(boxes) == 1:
        out = predict(z, *beside).float()  # (B, C, h, w)
        on_step(before + len(z))
        return out
    weights = upload(blending_window(boxes[0].height, boxes[0].width, plan.overlap).float(), z.device)
    total = torch.zeros(z.shape, dtype=torch.float32, device=z.device)  # (B, C, h, w)
    weight = torch.zeros(z.shape[-2:], dtype=torch.float32, device=z.device)  # (h, w)
    for first in range(0, len(boxes), plan.at_once):
        now = boxes[first : first + plan.at_once]
        out = predict(torch.cat([z[_at(box)] for box in now]), *beside).float()  # (n B, C, th, tw)
        tiles = zip(now, out.split(len(z)), strict=True)
        for done, (box, tile) in enumerate(tiles, start=before + first + 1):
            total[_at(box)] += tile * weights
            weight[_at(box)] += weights
            on_step(done)
    return total / weight


def _at(box: Box) -> tuple[EllipsisType, slice, slice]:
    return ..., slice(box.y, box.y + box.height), slice(box.x, box.x + box.width)


def blending_window(height: int, width: int, overlap: int) -> Tensor:
    """Return the blending weights of one tile, (height, width) float64, all positive.

    1 in the middle, falling as a squared sine to nothing over the `overlap` latent pixels at each border.
    """
    return _ramps(height, overlap)[:, None] * _ramps(width, overlap)[None, :]


def _ramps(n: int, overlap: int) -> Tensor:
    """Return the smooth window of one axis, (n,) float64; neighbours' shares add up to 1 as they are."""
    i = torch.arange(n, dtype=torch.float64) + 0.5  # centres of the pixels
    inside = torch.minimum(i, n - i) / max(overlap, 0.5)  # 0.5: without an overlap nothing is on a ramp
    return torch.sin(torch.pi / 2 * inside.clamp(max=1)) ** 2


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
    if tile is not None and tile < 1:
        raise OSEDiffError(f"a tile is at least 1 latent pixel wide, got {tile}: 96 is the published choice")
    if tile is not None and not 0 <= overlap < tile:
        raise OSEDiffError(
            f"the overlap of tiles must be at least 0 and smaller than the tile, got overlap {overlap} and "
            f"tile {tile}: a third of the tile is the published choice"
        )
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

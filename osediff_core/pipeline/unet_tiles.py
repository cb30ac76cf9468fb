"""The UNet's noise for one image: by tiles, as many at once as memory allows, and smaller if it runs out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..device.memory import first_that_fits
from ..model import OSEDiff
from .overflow import Check, finite
from .plan import Room, tiles_at_once
from .tiling import Box, grid, tiled

LEAST_TILE = 32  # latent pixels: below, the UNet's deepest level has fewer than 4 x 4 pixels


def predict_noise_in_tiles(
    model: OSEDiff,
    z: Tensor,
    embeds: Tensor,
    side: int | None,
    overlap: int,
    room: Room,
    progress: Callable[[int, int], None] | None,
    check: Check = finite,
) -> Tensor:
    """Return the noise in one latent (1, C, h, w), float32, by the tiles of `grid`.

    embeds: (1, L, D), or (T, L, D) with the prompt of every tile. If memory runs out for a single tile, the
    tiles are halved, which changes the picture and is said in the log; not where every tile has its prompt.
    """
    height, width = z.shape[-2:]

    def run(side: int | None) -> Tensor:
        here = _overlap(overlap, sides[0], side)
        boxes = grid(height, width, side, here)
        number = {box: i for i, box in enumerate(boxes)}

        def noise(tiles: Tensor, places: Sequence[Box]) -> Tensor:
            chosen = embeds if len(embeds) == 1 else torch.stack([embeds[number[box]] for box in places])
            return model.predict_noise(tiles, chosen)

        batch = tiles_at_once(model.unet, boxes[0].height, boxes[0].width, room)
        # Asked once for all tiles: a question to the device waits until it has done what it was given.
        return check(
            "predicted noise",
            model.unet,
            lambda: tiled(noise, z, side, here, progress, batch=batch),
        )

    sides = [side, *_smaller(height, width, side)] if len(embeds) == 1 else [side]
    return first_that_fits(sides, run, _words)


def _smaller(height: int, width: int, side: int | None) -> list[int]:
    """Return the sides to go on with after memory ran out: of half the tile, and so on, down to a floor."""
    whole = side is None or height * width <= side**2
    now = math.isqrt(height * width) if whole else side
    return [] if now is None or now // 2 < LEAST_TILE else [now // 2, *_smaller(height, width, now // 2)]


def _overlap(overlap: int, before: int | None, side: int | None) -> int:
    """Return the overlap of smaller tiles: the same share of the side, at most a third of it."""
    return overlap if side is None or side == before else min(overlap, side // 3)


def _words(side: int | None) -> str:
    return "the UNet's picture whole" if side is None else f"tiles of {side} latent pixels for the UNet"

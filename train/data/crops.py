"""Which part of a picture a sample shows, and how it is turned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import Picture
from osediff_core.transparency import visible

from ..degradation.filters import mirrored
from ..randomness.sampling import chance, integer, uniform
from .config import DataConfig

ENOUGH = 0.9
"""Share of the most that a window can show, where none is without transparent pixels."""


@dataclass(frozen=True)
class Square:
    """A square of `side` pixels from (top, left), flipped horizontally or not, turned by quarters."""

    top: int
    left: int
    side: int
    flip: bool
    quarters: int


def draw_window(
    size: tuple[int, int],
    crop: int,
    shrink: float,
    data: DataConfig,
    generator: torch.Generator,
    seen: Tensor | None = None,
) -> Square:
    """Draw the window of a crop that is `crop` pixels wide in the end, in a picture of (height, width).

    seen: (height, width) bool, what is no target where it is False: a window without such pixels is drawn, or
    one of those with the fewest. None: all is seen.
    """
    height, width = size
    factor = max(uniform(generator, shrink, 1), min(1.0, crop / min(height, width)))
    side = round(crop / factor)
    if seen is None:
        top = integer(generator, max(1, height - side + 1))
        left = integer(generator, max(1, width - side + 1))
    else:
        corners = seen_corners(seen, side)
        top, left = corners[integer(generator, len(corners))].tolist()
    flip = chance(generator, data.flip_prob)
    return Square(top, left, side, flip, integer(generator, 4) if data.rotate else 0)


def seen_part(hq: Picture, lq: Picture | None) -> Tensor | None:
    """Give which pixels are seen, (H, W) bool, of a real pair in both, in the LQ's size; None if all are."""
    steps = ((hq, 1 if lq is None else pair_ratio(hq.rgb[0], lq.rgb[0])), (lq, 1))
    alphas = [(one.alpha, step) for one, step in steps if one is not None and one.alpha is not None]
    hidden = [F.max_pool2d((~visible(alpha)).float(), step)[0, 0] for alpha, step in alphas]  # (H, W)
    seen = [part == 0 for part in hidden if part.any()]
    return None if not seen else torch.stack(seen).all(0)


def seen_corners(seen: Tensor, side: int) -> Tensor:
    """Give (top, left), (N, 2), of the windows of a picture (H, W) bool that show nothing but what is seen.

    Where there is none, those that show nearly as much as any. What lies beyond the picture is not counted.
    """
    height, width = (min(side, length) for length in seen.shape)
    sums = F.pad(seen.to(torch.int32), (1, 0, 1, 0)).cumsum(0, dtype=torch.int32)
    sums = sums.cumsum(1, dtype=torch.int32)  # (H + 1, W + 1)
    rows = sums[height:] - sums[:-height]  # (H - height + 1, W + 1)
    counts = rows[:, width:] - rows[:, :-width]  # (H - height + 1, W - width + 1)
    most = int(counts.max())
    return (counts >= (most if most == height * width else ENOUGH * most)).nonzero()


def draw_crop(
    picture: Tensor, data: DataConfig, generator: torch.Generator, seen: Tensor | None = None
) -> Tensor:
    """Cut a random (3, crop, crop) out of uint8 (3, H, W), shrunk, flipped and turned as configured.

    seen: (H, W) bool, the pixels that crops keep to, as far as they can; None for all.
    """
    if data.whole:
        picture, seen = _squeeze(picture, data.crop), None
    height, width = picture.shape[-2:]
    window = draw_window((height, width), data.crop, data.shrink, data, generator, seen)
    rows, columns = mirrored(height, window.top, window.side), mirrored(width, window.left, window.side)
    crop = picture[:, rows][:, :, columns]  # (3, side, side)
    if window.side != data.crop:
        from osediff_core.resize import resize_bicubic

        crop = resize_bicubic(crop[None], (data.crop, data.crop))[0]
    return _turned(crop, window)


def vary_colour(crop: Tensor, generator: torch.Generator) -> Tensor:
    """Swap channels, invert, scale contrast, shift the level of (3, H, W) in [0, 1], each now and then.

    For colours and flat areas that a few pictures lack.
    """
    if chance(generator, 0.5):
        crop = crop[torch.randperm(3, generator=generator)]
    if chance(generator, 0.3):
        crop = 1 - crop
    if chance(generator, 0.5):
        mean = crop.mean((1, 2), keepdim=True)
        level = torch.rand((3, 1, 1), generator=generator)
        mix = uniform(generator, 0, 1)
        crop = (crop - mean) * uniform(generator, 0.02, 1.2) + mean * (1 - mix) + level * mix
    return crop.clamp(0, 1)


def draw_pair(
    hq: Tensor, lq: Tensor, data: DataConfig, generator: torch.Generator, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cut the same random part out of a real pair, uint8 (3, r H, r W) and (3, H, W), r whole.

    seen: (H, W) bool, the pixels of the LQ that crops keep to, as far as they can; None for all.

    Returns hq and lq, both (3, crop, crop); lq is enlarged by the bicubic that restoration begins with. Pairs
    are never shrunk, and small ones are continued by repeating them mirrored, edge pixel included, so that
    both stay in register. Raises OSEDiffError where crop is no multiple of r.
    """
    ratio = pair_ratio(hq, lq)
    if data.crop % ratio:
        raise OSEDiffError(
            f"data.crop must be a multiple of {ratio}, the scale of the real pairs, got {data.crop}."
        )
    side = data.crop // ratio
    height, width = lq.shape[-2:]
    window = draw_window((height, width), side, 1.0, data, generator, seen)
    parts = []
    for picture, scale in ((hq, ratio), (lq, 1)):
        rows = _repeated(scale * height, scale * window.top, scale * side)
        columns = _repeated(scale * width, scale * window.left, scale * side)
        parts.append(_turned(picture[:, rows][:, :, columns], window))
    if ratio > 1:
        from osediff_core.resize import resize_bicubic

        parts[1] = resize_bicubic(parts[1][None], (data.crop, data.crop))[0]
    return parts[0], parts[1]


def pair_ratio(hq: Tensor, lq: Tensor) -> int:
    """Give how many times larger HQ (3, H, W) is than LQ; OSEDiffError unless that is one whole number."""
    (height, width), (low, narrow) = hq.shape[-2:], lq.shape[-2:]
    ratio = max(1, height // low)
    if (low * ratio, narrow * ratio) != (height, width):
        raise OSEDiffError(
            f"a real pair needs an HQ that is a whole number of times larger, got {width}x{height} "
            f"over {narrow}x{low}"
        )
    return ratio


def _repeated(length: int, start: int, count: int) -> Tensor:
    """Give `count` indices from `start` on into an axis that goes on mirrored, its last pixel repeated."""
    place = torch.arange(start, start + count) % (2 * length)  # (count,)
    return torch.minimum(place, 2 * length - 1 - place)


def _turned(crop: Tensor, window: Square) -> Tensor:
    crop = crop.flip(-1) if window.flip else crop
    return crop.rot90(window.quarters, (-2, -1)).contiguous()


def _squeeze(picture: Tensor, side: int) -> Tensor:
    """Resize uint8 (3, H, W) to a square with Lanczos, as the published face training does."""
    from PIL import Image

    if tuple(picture.shape[-2:]) == (side, side):
        return picture
    import numpy as np

    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    square = image.resize((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)  # (3, side, side)

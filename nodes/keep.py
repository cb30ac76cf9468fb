"""A MASK says what of a picture stays as it was: faces, text, logos."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..osediff_core.color import from_levels
from ..osediff_core.errors import OSEDiffError
from ..osediff_core.resize import resize_bicubic

BORDER = 1 / 64  # of the shorter side: how far the change from one to the other reaches


def keep_regions(
    restored: Tensor, original: Tensor, mask: Tensor, resized: tuple[int, int], middle: tuple[int, int]
) -> Tensor:
    """Return the restored pictures (B, 3, *middle), with the original, only enlarged, where the mask is 1.

    original: (B, 3, H, W). mask: MASK (1 or B, h, w) in [0, 1], of any size; the border is softened outwards
    and inwards. resized, middle: as the plan enlarged the original. Raises OSEDiffError for a mask of another
    batch.
    """
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or len(mask) not in (1, len(restored)):
        raise OSEDiffError(
            f"expected one mask, or one for each of {len(restored)} images, got {tuple(mask.shape)}"
        )
    weight = resize_bicubic(mask[:, None].float().clamp(0, 1), resized, middle)  # (1 or B, 1, *middle)
    weight = _softened(weight, max(1, round(BORDER * min(middle)))).to(restored)
    plain = from_levels(resize_bicubic(original, resized, middle)).to(restored)  # (B, 3, *middle)
    return torch.lerp(restored, plain, weight.expand(len(restored), -1, -1, -1))


def _softened(weight: Tensor, reach: int) -> Tensor:
    """Means over squares, twice: a step becomes a slope without corners."""
    for _ in range(2):
        padded = F.pad(weight, (reach,) * 4, mode="replicate")
        weight = F.avg_pool2d(padded, 2 * reach + 1, stride=1)
    return weight

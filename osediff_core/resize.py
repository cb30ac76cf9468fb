"""Resizing and padding. Sizes are (height, width); images (B, C, H, W), uint8 or float in [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from . import limits
from .errors import OSEDiffError


def target_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return floor(scale * side + 0.5) for both sides.

    Raises OSEDiffError unless scale is a number >= 1, and for results of more than `limits.RESULT_PIXELS`.
    """
    if not math.isfinite(scale) or scale < 1:
        raise OSEDiffError(
            f"the scale must be a finite number of at least 1, got {scale}: 4 is what OSEDiff is for"
        )
    if scale * height * scale * width > limits.RESULT_PIXELS:  # in floats, which may be infinite
        raise OSEDiffError(
            f"a result has at most {limits.RESULT_PIXELS:,} pixels, and {width} x {height} times {scale:g} "
            "has more: take a smaller scale"
        )
    return math.floor(scale * height + 0.5), math.floor(scale * width + 0.5)


def resize_bicubic(image: Tensor, size: tuple[int, int], middle: tuple[int, int] | None = None) -> Tensor:
    """Return `image` at `size` by bicubic interpolation with a = -0.5, antialiased where it shrinks.

    middle: the size of the part of it that is returned, None for all.

    8-bit images go through Pillow, whose rounding the published preprocessing has, and stay 8-bit. Floats
    come back as float32, resized along the width first and clamped after each side, as Pillow does it: that
    keeps them within 2 of 255 levels of it on any picture.
    """
    if image.dtype == torch.uint8:
        resized = _resize_uint8(image, size)
    else:
        wide = _interpolate(image.float(), (image.shape[-2], size[1]))  # (B, C, H, width)
        resized = _interpolate(wide, size)  # (B, C, height, width)
    return resized if middle in (None, size) else _middle(resized, middle)


def _interpolate(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize floats by torch's bicubic, which has a = -0.5 only where it antialiases; clamp to [0, 1]."""
    if tuple(image.shape[-2:]) != tuple(size):
        image = F.interpolate(image, size=size, mode="bicubic", align_corners=False, antialias=True)
    return image.clamp(0, 1)


def _resize_uint8(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize 8-bit channels with Pillow, one by one, as it does for RGB images itself."""
    import numpy as np
    from PIL import Image

    height, width = size
    out = np.empty((*image.shape[:2], height, width), dtype=np.uint8)  # (B, C, height, width)
    source = image.cpu().numpy()
    for b, c in np.ndindex(*image.shape[:2]):
        channel = Image.fromarray(np.ascontiguousarray(source[b, c]))
        out[b, c] = np.asarray(channel.resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(out).to(image.device)


def resize_alpha(alpha: Tensor, size: tuple[int, int], middle: tuple[int, int] | None = None) -> Tensor:
    """Return an alpha channel (B, 1, H, W) at `size`, by the image's bicubic: it is not restored."""
    return resize_bicubic(alpha, size, middle)  # (B, 1, *size) or (B, 1, *middle)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad `x` at the right and the bottom to sides that `multiple` divides.

    The picture is mirrored as far as it goes, then its last row or column is repeated; nothing is stretched.
    """
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    mirror_down, mirror_right = min(bottom, height - 1), min(right, width - 1)
    x = F.pad(x, (0, mirror_right, 0, mirror_down), mode="reflect")
    return F.pad(x, (0, right - mirror_right, 0, bottom - mirror_down), mode="replicate")


def _middle(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut away as much at either side, or one pixel more at the right and the bottom."""
    top, left = (x.shape[-2] - size[0]) // 2, (x.shape[-1] - size[1]) // 2
    return x[..., top : top + size[0], left : left + size[1]]


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the top left `size` of `x`: what padding added is gone."""
    return x[..., : size[0], : size[1]]

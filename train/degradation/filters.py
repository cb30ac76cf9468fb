"""Blur and resize of pictures (3, H, W)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

ResizeMode = Literal["area", "bilinear", "bicubic"]
RESIZE_MODES: tuple[ResizeMode, ...] = ("area", "bilinear", "bicubic")


def filter2d(image: Tensor, kernel: Tensor) -> Tensor:
    """Correlate each channel of (C, H, W) with a (k, k) kernel of odd side; the border is reflected.

    Unlike a plain reflection it accepts pictures smaller than the kernel's radius, as small training crops
    become after two shrinkings: the reflection is then repeated.
    """
    channels = image.shape[0]
    padded = _reflect(image[None], kernel.shape[-1] // 2)  # (1, C, H + 2r, W + 2r)
    weight = kernel.to(image).expand(channels, 1, -1, -1)
    return F.conv2d(padded, weight, groups=channels)[0]


def _reflect(image: Tensor, radius: int) -> Tensor:
    """Reflect the last two axes by radius pixels, the border pixel not repeated."""
    if min(image.shape[-2:]) == 1:
        image = F.pad(image, (1, 1, 1, 1), mode="replicate")  # one pixel has nothing to be mirrored
        radius -= 1
    while radius > 0:
        step = min(radius, min(image.shape[-2:]) - 1)
        image = F.pad(image, (step, step, step, step), mode="reflect")
        radius -= step
    return image


def resize_by(image: Tensor, scale: float, mode: ResizeMode) -> Tensor:
    """Resize (3, H, W) by a factor , sides rounded down but at least 1; not antialiased.

    Pixel positions follow the factor itself, not the rounded sizes, as in the published code.
    """
    scale = max(scale, 1 / min(image.shape[-2:]))
    return F.interpolate(image[None], scale_factor=scale, mode=mode)[0]


def resize_to(image: Tensor, size: tuple[int, int], mode: ResizeMode) -> Tensor:
    """Resize (3, H, W) to (height, width) without antialiasing, as the published code does."""
    return F.interpolate(image[None], size=size, mode=mode)[0]

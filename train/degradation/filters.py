"""Blur and resize of pictures (3, H, W)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ResizeMode = Literal["area", "bilinear", "bicubic"]
RESIZE_MODES: tuple[ResizeMode, ...] = ("area", "bilinear", "bicubic")


def filter2d(image: Tensor, kernel: Tensor) -> Tensor:
    """Correlate each channel of (C, H, W) with a (k, k) kernel of odd side; the border is reflected.

    Unlike a plain reflection it accepts pictures smaller than the kernel's radius, as small training crops
    become after two shrinkings: the reflection is then repeated. It goes through the Fourier transform, which
    on a CPU is several times as fast as sliding such large kernels, and equal to about 1e-6.
    """
    side = kernel.shape[-1]
    padded = _reflect(image[None], side // 2)[0]  # (C, H + 2r, W + 2r)
    size = (padded.shape[-2], padded.shape[-1])
    response = torch.fft.rfft2(kernel.to(image).flip(0, 1), s=size)
    filtered = torch.fft.irfft2(torch.fft.rfft2(padded) * response, s=size)  # (C, H + 2r, W + 2r)
    return filtered[:, side - 1 :, side - 1 :].contiguous()


def _reflect(image: Tensor, radius: int) -> Tensor:
    """Reflect the last two axes of (1, C, H, W) by radius pixels, the border pixel not repeated."""
    height, width = image.shape[-2:]
    if radius < min(height, width):
        return F.pad(image, (radius, radius, radius, radius), mode="reflect")
    rows = mirrored(height, -radius, height + 2 * radius)
    return image[..., rows, :][..., mirrored(width, -radius, width + 2 * radius)]


def mirrored(length: int, start: int, count: int) -> Tensor:
    """Give `count` indices from `start` on into an axis that goes on for ever by reflection at its ends."""
    period = max(1, 2 * (length - 1))
    place = torch.arange(start, start + count) % period  # (count,)
    return torch.minimum(place, period - place) if length > 1 else place


def resize_by(image: Tensor, scale: float, mode: ResizeMode) -> Tensor:
    """Resize (3, H, W) by a factor , sides rounded down but at least 1; not antialiased.

    Pixel positions follow the factor itself, not the rounded sizes, as in the published code.
    """
    scale = max(scale, 1 / min(image.shape[-2:]))
    return F.interpolate(image[None], scale_factor=scale, mode=mode)[0]


def resize_to(image: Tensor, size: tuple[int, int], mode: ResizeMode) -> Tensor:
    """Resize (3, H, W) to (height, width) without antialiasing, as the published code does."""
    return F.interpolate(image[None], size=size, mode=mode)[0]

"""Noise on pictures (3, H, W) in [0, 1]; the result is clamped to [0, 1].

Numbers are drawn on the CPU, so that a seed means the same on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_noise(image: Tensor, sigma: float, grey: bool, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise of deviation sigma (8-bit levels); `grey` gives all channels the same noise."""
    shape = image.shape[-2:] if grey else image.shape
    noise = torch.randn(shape, generator=generator, dtype=image.dtype) * (sigma / 255)
    return (image + noise.to(image.device)).clamp_(0, 1)


def poisson_noise(image: Tensor, scale: float, grey: bool, generator: torch.Generator) -> Tensor:
    """Add signal-dependent noise: what Poisson counting of the 8-bit picture would change, times `scale`.

    As in the published code a full signal counts 2^ceil(log2 n) photons, n the number of different 8-bit
    values in the picture. `grey` counts the luma once and gives all channels the same noise.
    """
    signal = _luma(image) if grey else image
    levels = signal.mul(255).round_().clamp_(0, 255)
    photons = _photons(levels)
    signal = levels / 255
    counts = torch.poisson((signal * photons).cpu(), generator=generator).to(image.device)
    noise = counts / photons - signal
    return (image + noise * scale).clamp_(0, 1)


def _luma(image: Tensor) -> Tensor:
    """Weigh the channels as ITU-R 601 does: (3, H, W) -> (1, H, W)."""
    red, green, blue = image.split(1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _photons(levels: Tensor) -> int:
    """Round the number of different 8-bit values up to a power of two."""
    distinct = int((torch.bincount(levels.flatten().to(torch.uint8), minlength=256) > 0).sum())
    return 1 << (distinct - 1).bit_length()

"""What is measured on the small problem: the distance between distributions, PSNR and contrast."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .textures import degraded, samples

COUNT = 512
"""Samples that are restored, and as many others that their distribution is compared with."""
SEED = 1
"""Of the samples that are measured on; those of training have another."""


@dataclass(frozen=True)
class Measured:
    """Means over COUNT samples. energy: distance of their distribution to that of other real samples.

    psnr: to the originals, dB. contrast: deviation of a sample over that of its original; 1 is as strong.
    """

    energy: float
    psnr: float
    contrast: float


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Estimate the energy distance of the distributions that a (N, ...) and b (M, ...) were drawn from.

    2 E|a - b| - E|a - a'| - E|b - b'| without bias (Székely and Rizzo 2013), over the root of the dimension:
    0 for equal distributions, below it by chance.
    """
    a, b = a.flatten(1), b.flatten(1)
    within = sum(torch.cdist(x, x).sum() / (len(x) * (len(x) - 1)) for x in (a, b))
    return float(2 * torch.cdist(a, b).mean() - within) / a.shape[1] ** 0.5


def measured(sr: Tensor, hq: Tensor, others: Tensor) -> Measured:
    """Measure sr against its originals hq and against other real samples, (N, 3, H, W) in [0, 1] each."""
    contrast = (sr.std((1, 2, 3)) / hq.std((1, 2, 3))).mean()
    return Measured(energy_distance(sr[:, 0], others[:, 0]), psnr(sr, hq), float(contrast))


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean PSNR of samples (N, 3, H, W) in [0, 1], dB."""
    return float(-10 * (a - b).square().mean((1, 2, 3)).log10().mean())


@lru_cache(maxsize=1)
def real() -> tuple[Tensor, Tensor]:
    """Give the two halves of what is measured on: originals, and others, (COUNT, 3, H, W) each."""
    return samples(2 * COUNT, SEED).chunk(2)  # pyright: ignore[reportReturnType]


def spoiled() -> Tensor:
    """Give the LQ of the measured samples, (COUNT, 3, H, W)."""
    return degraded(real()[0])


def measure(sr: Tensor) -> Measured:
    """Compare what was made of the LQ, (COUNT, 3, H, W), with the originals and with the others."""
    return measured(sr, *real())

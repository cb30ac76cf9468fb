"""Blur kernels of Real-ESRGAN: (size, size) float64, odd size, sum 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..randomness.sampling import chance, choose, integer, uniform
from .config import FirstStageConfig


def gaussian(size: int, sigma_x: float, sigma_y: float, theta: float = 0.0) -> Tensor:
    """Make a Gaussian with deviations sigma_x, sigma_y (pixels) along axes turned by theta (radians)."""
    return _normalised(torch.exp(-0.5 * _distance_squared(size, sigma_x, sigma_y, theta)))


def generalized_gaussian(size: int, sigma_x: float, sigma_y: float, theta: float, beta: float) -> Tensor:
    """Make exp(-d^(2 beta) / 2): the Gaussian at beta 1, peaked below, flat-topped above."""
    return _normalised(torch.exp(-0.5 * _distance_squared(size, sigma_x, sigma_y, theta) ** beta))


def plateau(size: int, sigma_x: float, sigma_y: float, theta: float, beta: float) -> Tensor:
    """Make 1 / (1 + d^(2 beta)): a flat top with long tails."""
    return _normalised(1 / (1 + _distance_squared(size, sigma_x, sigma_y, theta) ** beta))


def sinc(size: int, cutoff: float) -> Tensor:
    """Make the circular ideal low-pass with the given cutoff, radians per pixel in (0, pi].

    Its continuous form is cutoff * J1(cutoff * r) / (2 pi r), which tends to cutoff^2 / (4 pi) at r = 0.
    """
    x = _axis(size)
    r = torch.hypot(x.view(-1, 1), x)
    kernel = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return _normalised(kernel)


def _axis(size: int) -> Tensor:
    return torch.arange(size, dtype=torch.float64) - size // 2


def _distance_squared(size: int, sigma_x: float, sigma_y: float, theta: float) -> Tensor:
    """Squared distance from the centre in units of the deviations, (size, size)."""
    x, y = _axis(size).view(1, -1), _axis(size).view(-1, 1)
    cos, sin = math.cos(theta), math.sin(theta)
    along, across = cos * x + sin * y, cos * y - sin * x
    return (along / sigma_x) ** 2 + (across / sigma_y) ** 2


def _normalised(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()


def draw_size(limits: tuple[int, int], generator: torch.Generator) -> int:
    """Draw an odd side between the limits, both included."""
    low, high = limits
    return low + 2 * integer(generator, (high - low) // 2 + 1)


def draw_blur(stage: FirstStageConfig, size: int, generator: torch.Generator) -> Tensor:
    """Draw a stage's blur kernel of the given side: a sinc, or one of the six Gaussian-like kinds."""
    if chance(generator, stage.sinc_prob):
        # Small kernels cannot hold the slow ripples of a low cutoff.
        return sinc(size, uniform(generator, math.pi / 3 if size < 13 else math.pi / 5, math.pi))
    kind = choose(generator, stage.kernel_probs)
    sigma_x = uniform(generator, *stage.blur_sigma)
    sigma_y, theta = sigma_x, 0.0
    if kind % 2:  # the anisotropic ones
        sigma_y, theta = uniform(generator, *stage.blur_sigma), uniform(generator, -math.pi, math.pi)
    if kind < 2:
        return gaussian(size, sigma_x, sigma_y, theta)
    if kind < 4:
        beta = _draw_beta(stage.beta_gaussian, generator)
        return generalized_gaussian(size, sigma_x, sigma_y, theta, beta)
    return plateau(size, sigma_x, sigma_y, theta, _draw_beta(stage.beta_plateau, generator))


def draw_final_sinc(size: int, generator: torch.Generator) -> Tensor:
    """Draw the low-pass that follows the last resize, with a cutoff from pi/3 to pi."""
    return sinc(size, uniform(generator, math.pi / 3, math.pi))


def _draw_beta(limits: tuple[float, float], generator: torch.Generator) -> float:
    """Half of the draws are uniform from the lower limit to 1, half from 1 to the upper limit."""
    low, high = limits
    if chance(generator, 0.5):
        return uniform(generator, low, max(low, 1.0))
    return uniform(generator, min(high, 1.0), high)

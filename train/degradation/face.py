"""The degradation of the published face training: one blur, one shrinking, noise, JPEG, and back to size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..randomness.sampling import chance, uniform
from .config import FaceConfig
from .filters import filter2d, resize_to
from .jpeg import jpeg
from .kernels import gaussian
from .noise import gaussian_noise


@dataclass(frozen=True)
class FaceRecipe:
    """Kernel (k, k), factor of shrinking, noise deviation in 8-bit levels, JPEG quality."""

    kernel: Tensor
    shrink: float
    noise: float
    quality: int


def draw_face_recipe(config: FaceConfig, generator: torch.Generator) -> FaceRecipe:
    """Draw what one picture goes through."""
    sigma_x = sigma_y = uniform(generator, *config.blur_sigma)
    theta = 0.0
    if not chance(generator, config.isotropic_prob):
        sigma_y, theta = uniform(generator, *config.blur_sigma), uniform(generator, -math.pi, math.pi)
    return FaceRecipe(
        kernel=gaussian(config.kernel_size, sigma_x, sigma_y, theta),
        shrink=uniform(generator, *config.shrink),
        noise=uniform(generator, *config.noise_sigma),
        quality=int(uniform(generator, *config.jpeg_quality)),
    )


def apply_face_recipe(hq: Tensor, recipe: FaceRecipe, generator: torch.Generator) -> Tensor:
    """Degrade (3, H, W) in [0, 1] to its shrunk size; only the noise comes from the generator."""
    size = [max(1, int(side // recipe.shrink)) for side in hq.shape[-2:]]
    image = resize_to(filter2d(hq, recipe.kernel), (size[0], size[1]), "bilinear")
    return jpeg(gaussian_noise(image, recipe.noise, False, generator), recipe.quality)


def degrade_face(hq: Tensor, config: FaceConfig, generator: torch.Generator) -> Tensor:
    """Degrade (3, H, W) in [0, 1] and enlarge the result to the same size; not rounded, as published."""
    lq = apply_face_recipe(hq, draw_face_recipe(config, generator), generator)
    return resize_to(lq, (hq.shape[-2], hq.shape[-1]), "bilinear").clamp(0, 1)

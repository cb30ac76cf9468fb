"""What one picture goes through: everything drawn at random except the noise itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..randomness.sampling import chance, choose, integer, uniform
from .config import DegradationConfig, FirstStageConfig
from .filters import RESIZE_MODES, ResizeMode
from .kernels import draw_blur, draw_final_sinc, draw_size


@dataclass(frozen=True)
class NoiseRecipe:
    """Noise of one stage: kind, strength (deviation in levels, or Poisson factor), grey or coloured."""

    gaussian: bool
    strength: float
    grey: bool


@dataclass(frozen=True)
class StageRecipe:
    """One stage: kernel (k, k) or None for no blur, resize factor and mode, noise, JPEG quality 1 to 100."""

    kernel: Tensor | None
    scale: float
    mode: ResizeMode
    noise: NoiseRecipe
    quality: int


@dataclass(frozen=True)
class Recipe:
    """Both stages, and how the LQ size is reached: low-pass (or None), before or after the last JPEG."""

    first: StageRecipe
    second: StageRecipe
    sinc: Tensor | None
    jpeg_last: bool
    lq_mode: ResizeMode
    back_mode: ResizeMode


def draw_recipe(config: DegradationConfig, generator: torch.Generator) -> Recipe:
    """Draw what one picture goes through; it does not depend on the picture's size."""
    first = _draw_stage(config.first, config.kernel_size, generator)
    second = _draw_stage(config.second, config.kernel_size, generator)
    sinc = None
    if chance(generator, config.final_sinc_prob):
        sinc = draw_final_sinc(draw_size(config.kernel_size, generator), generator)
    return Recipe(first, second, sinc, chance(generator, 0.5), _draw_mode(generator), _draw_mode(generator))


def _draw_stage(stage: FirstStageConfig, sizes: tuple[int, int], generator: torch.Generator) -> StageRecipe:
    kernel = draw_blur(stage, draw_size(sizes, generator), generator)
    return StageRecipe(
        kernel=kernel if chance(generator, stage.blur_prob) else None,
        scale=_draw_scale(stage, generator),
        mode=_draw_mode(generator),
        noise=_draw_noise(stage, generator),
        quality=round(uniform(generator, *stage.jpeg_quality)),
    )


def _draw_scale(stage: FirstStageConfig, generator: torch.Generator) -> float:
    """Draw enlarging, shrinking or keeping first, then the factor."""
    smallest, largest = stage.resize_range
    direction = choose(generator, stage.resize_probs)
    if direction == 0:
        return uniform(generator, 1, largest)
    return uniform(generator, smallest, 1) if direction == 1 else 1.0


def _draw_mode(generator: torch.Generator) -> ResizeMode:
    return RESIZE_MODES[integer(generator, len(RESIZE_MODES))]


def _draw_noise(stage: FirstStageConfig, generator: torch.Generator) -> NoiseRecipe:
    gaussian = chance(generator, stage.gaussian_noise_prob)
    strength = uniform(generator, *(stage.noise_sigma if gaussian else stage.poisson_scale))
    return NoiseRecipe(gaussian, strength, chance(generator, stage.grey_noise_prob))

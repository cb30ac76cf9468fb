"""The published order of random draws, so that its seeded results can be replayed on our operators.

The published code mixes three generators: `random` for choices, numpy's for probabilities and ranges,
torch's for noise and JPEG quality.
"""

from __future__ import annotations

import math
import random

import numpy as np
import torch
from torch import Tensor

from train.degradation import kernels
from train.degradation.config import DegradationConfig, FirstStageConfig
from train.degradation.filters import RESIZE_MODES, filter2d, resize_by, resize_to
from train.degradation.noise import gaussian_noise, poisson_noise
from train.degradation.pipeline import first_stage, round_to_8bit, second_stage, to_lq_size
from train.degradation.recipe import NoiseRecipe, Recipe, StageRecipe


class Replay:
    """One seeded run of the published degradation."""

    def __init__(self, seed: int, config: DegradationConfig, whole_quality: bool = True) -> None:
        self.config = config
        self.whole_quality = whole_quality
        self.choice = random.Random(seed)
        self.numpy = np.random.RandomState(seed)
        self.torch = torch.Generator().manual_seed(seed)

    def run(self, picture: Tensor) -> tuple[Tensor, Recipe]:
        """Degrade (3, H, W) in [0, 1], perhaps flipped first, to the same size; also what was drawn."""
        hq = picture.flip(-1) if self.choice.random() < 0.5 else picture
        size = (hq.shape[1], hq.shape[2])
        first_kernel, second_kernel = self.blur(self.config.first), self.blur(self.config.second)
        sinc = None
        if self.numpy.uniform() < self.config.final_sinc_prob:
            side = self.side()
            sinc = kernels.sinc(side, self.numpy.uniform(math.pi / 3, math.pi))
        scale, mode = self.resize(self.config.first)
        before = resize_by(filter2d(hq, first_kernel), scale, mode)
        state, first = self.stage(self.config.first, first_kernel, scale, mode, before)
        after = self.torch.get_state()
        image = first_stage(hq, first, self.torch.set_state(state))
        self.torch.set_state(after)
        second_kernel = second_kernel if self.numpy.uniform() < self.config.second.blur_prob else None
        scale, mode = self.resize(self.config.second)
        blurred = image if second_kernel is None else filter2d(image, second_kernel)
        before = resize_to(blurred, (int(size[0] / 4 * scale), int(size[1] / 4 * scale)), mode)
        state, second = self.stage(self.config.second, second_kernel, scale, mode, before)
        image = second_stage(image, second, size, 4, self.torch.set_state(state))
        recipe = Recipe(first, second, sinc, self.numpy.uniform() < 0.5, self.mode(), self.mode())
        lq = to_lq_size(image, recipe, (size[0] // 4, size[1] // 4))
        return round_to_8bit(resize_to(lq, size, recipe.back_mode)), recipe

    def side(self) -> int:
        return self.choice.choice(range(7, 22, 2))

    def mode(self) -> str:
        return self.choice.choice(RESIZE_MODES)

    def blur(self, stage: FirstStageConfig) -> Tensor:
        side = self.side()
        if self.numpy.uniform() < stage.sinc_prob:
            return kernels.sinc(side, self.numpy.uniform(math.pi / (3 if side < 13 else 5), math.pi))
        kind = self.choice.choices(range(6), stage.kernel_probs)[0]
        x = y = self.numpy.uniform(*stage.blur_sigma)
        theta = 0.0
        if kind % 2:
            y, theta = self.numpy.uniform(*stage.blur_sigma), self.numpy.uniform(-math.pi, math.pi)
        if kind < 2:
            return kernels.gaussian(side, x, y, theta)
        low, high = stage.beta_gaussian if kind < 4 else stage.beta_plateau
        beta = self.numpy.uniform(low, 1) if self.numpy.uniform() < 0.5 else self.numpy.uniform(1, high)
        make = kernels.generalized_gaussian if kind < 4 else kernels.plateau
        return make(side, x, y, theta, beta)

    def resize(self, stage: FirstStageConfig) -> tuple[float, str]:
        direction = self.choice.choices(range(3), stage.resize_probs)[0]
        scale = 1.0
        if direction == 0:
            scale = self.numpy.uniform(1, stage.resize_range[1])
        elif direction == 1:
            scale = self.numpy.uniform(stage.resize_range[0], 1)
        return scale, self.mode()

    def stage(
        self, stage: FirstStageConfig, kernel: Tensor | None, scale: float, mode: str, before: Tensor
    ) -> tuple[Tensor, StageRecipe]:
        """Draw a stage's noise and JPEG quality; also the torch generator's state just before the noise."""
        gaussian = self.numpy.uniform() < stage.gaussian_noise_prob
        low, high = stage.noise_sigma if gaussian else stage.poisson_scale
        strength = low + (high - low) * self.rand()
        noise = NoiseRecipe(gaussian, strength, self.rand() < stage.grey_noise_prob)
        state = self.torch.get_state()
        add = gaussian_noise if gaussian else poisson_noise
        if noise.grey:  # the published code draws the coloured noise as well and weighs it with zero
            add(before, strength, True, self.torch)
        add(before, strength, False, self.torch)
        low, high = stage.jpeg_quality
        quality = low + (high - low) * self.rand()
        return state, StageRecipe(
            kernel, scale, mode, noise, round(quality) if self.whole_quality else quality
        )

    def rand(self) -> float:
        return torch.rand(1, generator=self.torch).item()

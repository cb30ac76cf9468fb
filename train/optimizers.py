"""AdamW for the generator and for the critic, each clipped on its own."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .config import OptimConfig

OUTPUT_LAYER = "unet.conv_out."


def rate_factor(step: int, warmup_steps: int, decay_steps: int) -> float:
    """The share of the learning rate at a step: a linear rise, then half a cosine down or a constant."""
    rise = min(1.0, (step + 1) / max(warmup_steps, 1))
    if not decay_steps:
        return rise
    return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / decay_steps)))


class Updater:
    """One optimizer with its learning rate schedule and its clipping."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: OptimConfig) -> None:
        """Optimize named parameters; those of conv_out get `output_lr_scale` times the learning rate."""
        self.parameters = list(parameters.values())
        self.max_norm = config.max_grad_norm
        output = [p for name, p in parameters.items() if name.startswith(OUTPUT_LAYER)]
        others = [p for name, p in parameters.items() if not name.startswith(OUTPUT_LAYER)]
        rate = config.learning_rate
        self.optimizer = torch.optim.AdamW(
            [{"params": others, "lr": rate}, {"params": output, "lr": rate * config.output_lr_scale}],
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            eps=config.epsilon,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rate_factor(step, config.warmup_steps, config.decay_steps)
        )

    def clip(self) -> Tensor:
        """Clip the gradients; returns their norm before, not finite if any of them is not."""
        return nn.utils.clip_grad_norm_(self.parameters, self.max_norm)

    def update(self) -> None:
        """Take one step and forget the gradients."""
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step, without `output_lr_scale`."""
        return self.schedule.get_last_lr()[0]

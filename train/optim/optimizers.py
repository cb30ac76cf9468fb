"""AdamW for the generator and for the critic, each with its own clipping, loss scale and guard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .averages import Average, single_process
from .config import OptimConfig
from .guard import Guard

OUTPUT_LAYER = "unet.conv_out."
FIRST_LOSS_SCALE = 1024.0  # float16 only; it doubles every 1000 steps and is halved where something overflows


def rate_factor(step: int, warmup_steps: int, decay_steps: int) -> float:
    """Return the share of the learning rate at a step: a linear rise, then half a cosine or a constant."""
    rise = min(1.0, (step + 1) / max(warmup_steps, 1))
    if not decay_steps:
        return rise
    return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / decay_steps)))


class Updater:
    """One optimizer with its learning rate schedule, and all that happens between backward and step."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        config: OptimConfig,
        output_lr_scale: float = 1.0,
        average: Average = single_process,
        half: bool = False,
    ) -> None:
        """Optimize named parameters; those of conv_out get `output_lr_scale` times the learning rate.

        average: over processes. half: scale the loss, because float16 gradients would vanish.
        """
        self.parameters = list(parameters.values())
        self.max_norm, self.average = config.max_grad_norm, average
        output = [p for name, p in parameters.items() if name.startswith(OUTPUT_LAYER)]
        others = [p for name, p in parameters.items() if not name.startswith(OUTPUT_LAYER)]
        rate = config.learning_rate
        device = self.parameters[0].device.type
        self.optimizer = torch.optim.AdamW(
            [{"params": others, "lr": rate}, {"params": output, "lr": rate * output_lr_scale}],
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            eps=config.epsilon,
            fused=True if device == "cuda" else None,  # one kernel for hundreds of small tensors
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rate_factor(step, config.warmup_steps, config.decay_steps)
        )
        self.scaler = torch.amp.GradScaler(
            device, init_scale=FIRST_LOSS_SCALE, growth_interval=1000, enabled=half
        )
        self.guard = Guard(config.max_skipped, config.skip_above)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those that are there."""
        self.scaler.scale(loss).backward()

    def update(self, values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Take one step with the gradients of all processes, unless it would do harm; forget the gradients.

        values: scalars of this process. Returns them averaged, and the gradient norm before clipping. Raises
        OSEDiffError when too many steps had to be skipped.
        """
        values = self.average(self.parameters, values)
        self.scaler.unscale_(self.optimizer)
        norm = self.clip()
        try:
            if self.guard.allows(values, norm):
                self.scaler.step(self.optimizer)
                self.schedule.step()
            if self.scaler.is_enabled():
                self.scaler.update()
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        return values, norm

    def clip(self) -> Tensor:
        """Clip the gradients; returns their norm before, not finite if any of them is not."""
        return nn.utils.clip_grad_norm_(self.parameters, self.max_norm)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step, without `output_lr_scale`."""
        return float(self.schedule.get_last_lr()[0])

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on, besides the parameters."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "guard": self.guard.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, at the rates and the weight decay that are configured now."""
        now = [(group["initial_lr"], group["weight_decay"]) for group in self.optimizer.param_groups]
        fused = self.optimizer.defaults["fused"]  # what this device has, and not the one that wrote the state
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict({**state["schedule"], "base_lrs": [rate for rate, _ in now]})
        factors = zip(self.schedule.lr_lambdas, now, self.optimizer.param_groups, strict=True)
        for factor, (rate, decay), group in factors:
            group |= {"initial_lr": rate, "weight_decay": decay, "fused": fused}
            group["lr"] = rate * factor(self.schedule.last_epoch)
        self.schedule._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler.load_state_dict(state["scaler"])
        self.guard.restore(state["guard"])

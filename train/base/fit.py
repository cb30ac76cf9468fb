"""The short training that both parts of a small base share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from osediff_core.errors import OSEDiffError


def learning_rate_factor(progress: float, warmup: float = 0.02) -> float:
    """Linear warm-up, then half a cosine down to zero; `progress` in [0, 1]."""
    return min(1.0, progress / warmup + 1e-3) * 0.5 * (1 + math.cos(math.pi * progress))


def fit(
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    groups: list[dict],
    steps: int,
    report: Callable[[int, float], None],
    ema_decay: float = 0.998,
) -> None:
    """Minimise `loss_of(step)` over `groups` in `steps` steps, leaving the averaged weights in `model`.

    groups: AdamW parameter groups, each with its own "lr"; report(step, loss) sees every step.
    Raises OSEDiffError when the loss is not finite.
    """
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-3)
    parameters = [p for group in groups for p in group["params"]]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step / steps))
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ema_decay)
    )
    for step in range(steps):
        loss = loss_of(step)
        if not torch.isfinite(loss):
            raise OSEDiffError(f"the loss of the base training is {loss.item()} at step {step}: lower its lr")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        report(step, loss.item())
    model.load_state_dict(average.module.state_dict())

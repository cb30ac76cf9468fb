"""The short training that both parts of a small base share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn


def learning_rate_factor(progress: float, warmup: float = 0.02) -> float:
    """Linear warm-up, then half a cosine down to zero; `progress` in [0, 1]."""
    return min(1.0, progress / warmup) * 0.5 * (1 + math.cos(math.pi * progress))


def fit(
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    groups: list[dict],
    minutes: float,
    report: Callable[[int, float, float], None],
    ema_decay: float = 0.998,
) -> int:
    """Minimise `loss_of(step)` over `groups` for `minutes`, leaving the averaged weights in `model`.

    groups: AdamW parameter groups, each with its own "lr"; report(step, loss, progress) sees every step.
    A loss that is not finite ends the training with an OSEDiffError. Returns the number of steps.
    """
    from osediff_core.errors import OSEDiffError

    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-3)
    peaks = [group["lr"] for group in groups]
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ema_decay)
    )
    begin, step = time.monotonic(), 0
    while (progress := (time.monotonic() - begin) / (60 * minutes)) < 1:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * learning_rate_factor(progress)
        loss = loss_of(step)
        if not torch.isfinite(loss):
            raise OSEDiffError(f"the loss of the base training is {loss.item()} at step {step}: lower its lr")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
        optimizer.step()
        average.update_parameters(model)
        report(step, loss.item(), progress)
        step += 1
    model.load_state_dict(average.module.state_dict())
    return step

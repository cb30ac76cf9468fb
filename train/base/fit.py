"""The short training that both parts of a small base share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from osediff_core.errors import OSEDiffError

from ..engine.state import read_state, write_state


@dataclass(frozen=True)
class Keep:
    """Where an unfinished training lies, so that it can be killed and gone on with.

    generator is the only source of randomness of the training. what: its settings and checksums of all
    that it is trained on, by name; a file that was left by something else is refused.
    """

    file: Path
    generator: torch.Generator
    what: Mapping[str, str]
    every: int = 100


def learning_rate_factor(progress: float, warmup: float = 0.02) -> float:
    """Linear warm-up, then half a cosine down to zero; `progress` in [0, 1]."""
    return min(1.0, progress / warmup + 1e-3) * 0.5 * (1 + math.cos(math.pi * progress))


def fit(
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    groups: list[dict],
    steps: int,
    report: Callable[[int, float], None],
    keep: Keep | None = None,
    ema_decay: float = 0.998,
) -> None:
    """Minimise `loss_of(step)` over `groups` in `steps` steps, leaving the averaged weights in `model`.

    groups: AdamW parameter groups, each with its own "lr"; report(step, loss) sees every step. With `keep`,
    goes on from its file if there is one, writes it now and then, and removes it at the end.
    Raises OSEDiffError when the loss is not finite, or when the file belongs to another training.
    """
    parts = training_parts(model, groups, steps, ema_decay)
    parameters = [p for group in groups for p in group["params"]]
    done = resume(keep, parts) if keep and keep.file.exists() else 0
    for step in range(done, steps):
        loss = loss_of(step)
        if not torch.isfinite(loss):
            raise OSEDiffError(f"the loss of the base training is {loss.item()} at step {step}: lower its lr")
        parts["optimizer"].zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        parts["optimizer"].step()
        parts["schedule"].step()
        parts["average"].update_parameters(model)
        report(step, loss.item())
        if keep and (step + 1) % keep.every == 0:
            save(keep, parts, step + 1)
    model.load_state_dict(parts["average"].module.state_dict())


def training_parts(model: nn.Module, groups: list[dict], steps: int, ema_decay: float) -> dict:
    """Make what a training steps and what it must keep to go on: model, average, optimizer, schedule."""
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step / steps))
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ema_decay)
    )
    return {"model": model, "average": average, "optimizer": optimizer, "schedule": schedule}


def save(keep: Keep, parts: dict, step: int) -> None:
    """Write all that the training needs to go on after `step` steps, beside the file and then over it."""
    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"step": step, "what": dict(keep.what), "generator": keep.generator.get_state()}
    keep.file.parent.mkdir(parents=True, exist_ok=True)
    write_state(keep.file, state)


def resume(keep: Keep, parts: dict) -> int:
    """Read the file back into its parts; returns the steps already taken."""
    try:
        state = read_state(keep.file)
    except OSEDiffError as error:
        raise OSEDiffError(f"{error}: delete it to start anew") from error
    others = [name for name, what in keep.what.items() if state["what"].get(name) != what]
    if others:
        raise OSEDiffError(
            f"{keep.file} was left by a training with other {' and other '.join(others)}: restore them to go "
            "on with it, or delete it to start anew"
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    keep.generator.set_state(state["generator"])
    return state["step"]

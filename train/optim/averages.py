"""What processes tell each other in a step: gradients and the numbers to log, averaged in one exchange.

The networks are not wrapped in DistributedDataParallel: they hold the adapters of two networks, and every
backward pass leaves one of the two sets without gradients, which its reducer would wait for in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

Average = Callable[[Iterable[nn.Parameter], Mapping[str, Tensor]], dict[str, Tensor]]
"""(parameters, scalars by name) -> the scalars averaged; the parameters' gradients are averaged in place."""


def averaging(accelerator: Accelerator) -> Average:
    """Return the function that averages over the processes of `accelerator`."""

    def average(parameters: Iterable[nn.Parameter], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        gradients = [p.grad for p in parameters if p.grad is not None]
        scalars = [value.detach().float().reshape(1) for value in values.values()]
        if not gradients and not scalars:
            return {}
        flat = torch.cat([*(g.float().flatten() for g in gradients), *scalars])  # (gradients + values,)
        flat = accelerator.reduce(flat, reduction="mean")
        pieces = flat.split([*(g.numel() for g in gradients), *(1 for _ in scalars)])  # pyright: ignore[reportAttributeAccessIssue]
        for gradient, piece in zip(gradients, pieces, strict=False):
            gradient.copy_(piece.view_as(gradient))
        return {name: piece[0] for name, piece in zip(values, pieces[len(gradients) :], strict=True)}

    return average if accelerator.num_processes > 1 else single_process


def single_process(parameters: Iterable[nn.Parameter], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Average over one process: everything stays what it is."""
    return dict(values)


def mean_of(values: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average scalars over the batches of a step, name by name."""
    return {name: torch.stack([v[name] for v in values]).mean() for name in values[0]}

"""A running average of what the generator trains: less noisy than the last step, and what is exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..networks.adapters import copy_strictly


class RunningAverage:
    """An exponential average of named parameters, which starts as they are."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        """Average with min(decay, (1 + n) / (10 + n)) at update n, so that the start is soon forgotten."""
        self.parameters, self.decay, self.updates = parameters, decay, 0
        self.values = {name: nn.Parameter(p.detach().clone(), False) for name, p in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters of now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in self.parameters.items():
            self.values[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the parameters have the values of the average."""
        before = {name: p.detach().clone() for name, p in self.parameters.items()}
        copy_strictly(self.parameters, self.values)
        try:
            yield
        finally:
            copy_strictly(self.parameters, before)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {"updates": self.updates, "values": {name: v.detach() for name, v in self.values.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.updates = state["updates"]
        copy_strictly(self.values, state["values"])

"""Steps that would do harm: recognised, skipped, counted, and after too many of them the run ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from osediff_core.errors import OSEDiffError

WINDOW = 100  # steps that the limit looks back on
SETTLING = 50  # steps before a norm can be called unusual
CAUSES = (
    "known causes: a learning rate that is too high (lower optim.learning_rate, raise optim.warmup_steps), a "
    "base that predicts velocity (Stable Diffusion 2.1 at 768 instead of 2.1-base) behind a scheduler file "
    "that says otherwise, float16 where bfloat16 would do (run.mixed_precision), a damaged base or checkpoint"
)


class Guard:
    """Judges the steps of one network by their numbers.

    A step is harmful if a loss or the gradient norm is not finite, or if the norm is more than `factor` times
    its running geometric mean (0: never).
    """

    def __init__(self, limit: int, factor: float) -> None:
        """Allow `limit` harmful steps among the last 100."""
        self.limit, self.factor = limit, factor
        self.steps, self.mean_log_norm = 0, 0.0
        self.skipped: list[int] = []  # the step counts at which the last ones were skipped
        self.total = 0

    def allows(self, values: Mapping[str, Tensor], norm: Tensor) -> bool:
        """Say whether the step may be taken. Raises OSEDiffError once too many may not."""
        self.steps += 1
        numbers = torch.stack([*(v.float() for v in values.values()), norm.float()]).tolist()  # one wait
        bad = [name for name, n in zip(values, numbers, strict=False) if not math.isfinite(n)]
        if not bad and math.isfinite(numbers[-1]) and not self._explodes(numbers[-1]):
            self._learn(numbers[-1])
            return True
        self.total += 1
        self.skipped = [step for step in [*self.skipped, self.steps] if step > self.steps - WINDOW]
        if len(self.skipped) > self.limit:
            what = ", ".join(bad) or "the gradient"
            raise OSEDiffError(
                f"{len(self.skipped)} of the last {min(self.steps, WINDOW)} steps had to be skipped, because "
                f"{what} became infinite, no number or far larger than before; {CAUSES}"
            )
        return False

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {
            "steps": self.steps,
            "mean_log_norm": self.mean_log_norm,
            "skipped": self.skipped,
            "total": self.total,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.steps, self.mean_log_norm = state["steps"], state["mean_log_norm"]
        self.skipped, self.total = list(state["skipped"]), state["total"]

    def _explodes(self, norm: float) -> bool:
        settled = self.steps - self.total > SETTLING
        return settled and bool(self.factor) and norm > self.factor * math.exp(self.mean_log_norm)

    def _learn(self, norm: float) -> None:
        good = self.steps - self.total
        share = 1 / min(good, WINDOW)
        self.mean_log_norm += share * (math.log(max(norm, 1e-30)) - self.mean_log_norm)

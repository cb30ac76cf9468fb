"""What a training is made of: objectives of the generator, and opponents that learn beside it.

Losses are for pictures (B, 3, H, W) in [-1, 1], the units of the published weights, and latents (B, C, h, w)
in the scaled units that the diffusion works in. Noise and timesteps are arguments, nothing is drawn here.
Networks come into the mathematics as callables, so that it can be compared with recorded outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..networks.adapters import copy_strictly
from ..networks.backbone import Backbone
from ..optim.averages import mean_of
from ..optim.optimizers import Updater
from .batch import Restored

BINS = 5
"""Shares of the 1000 diffusion timesteps that distances between scores are reported for."""

NoisePredictor = Callable[[Tensor, Tensor], Tensor]
"""(z_t (B, C, h, w), timesteps (B,)) -> predicted noise (B, C, h, w)."""

PerceptualLoss = Callable[[Tensor, Tensor], Tensor]
"""(sr, hq), both (B, 3, H, W) in [-1, 1] -> one value per sample, (B,)."""


@dataclass(frozen=True)
class Objective:
    """A loss of the generator: of what it restored, a scalar with its graph, and detached signals by name."""

    weight: float
    loss: Callable[[Restored], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Opponent:
    """A network that takes steps of its own after each of the generator's.

    loss: of what the generator restored, detached, and the number of the update within the step.
    role: what the backward pass runs in, where activations may be computed again.
    """

    name: str
    parameters: Mapping[str, nn.Parameter]
    updater: Updater
    loss: Callable[[Restored, int], Tensor]
    updates: int = 1
    role: Callable[[], AbstractContextManager[None]] = nullcontext

    def step(self, restored: Sequence[Restored]) -> dict[str, Tensor]:
        """Take the updates of one step, each on the mean over batches; returns the last one's scalars."""
        values = {}
        for update in range(self.updates):
            self.updater.optimizer.zero_grad(set_to_none=True)  # what the generator's losses left there
            losses = []
            for made in restored:
                loss = self.loss(made, update)
                with self.role():
                    self.updater.backward(loss / len(restored))
                losses.append({f"loss/{self.name}": loss.detach()})
            means, norm = self.updater.update(mean_of(losses))
            values = means | {f"norm/{self.name}": norm}
        return values | {f"mean/{self.name}/loss": values[f"loss/{self.name}"]}

    def state(self) -> dict[str, Any]:
        """Return all that its next step depends on, by names of its own."""
        weights = {name: parameter.detach() for name, parameter in self.parameters.items()}
        return {self.name: weights, f"{self.name}_updater": self.updater.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        copy_strictly(self.parameters, state[self.name])
        self.updater.restore(state[f"{self.name}_updater"])


@dataclass(frozen=True)
class Context:
    """What objectives and opponents are built from.

    perceptual: the measure of the perceptual term, or None. negative_embeds: (1, L, D). alphas_cumprod: (T,).
    updater: makes the optimizer of an opponent's parameters. opponents: by name, in the order of their steps;
    an objective adds those that it plays against.
    """

    backbone: Backbone
    perceptual: PerceptualLoss | None
    negative_embeds: Tensor
    alphas_cumprod: Tensor
    seed: int
    updater: Callable[[Mapping[str, nn.Parameter]], Updater]
    opponents: dict[str, Opponent] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the training runs."""
        return self.alphas_cumprod.device

    def teacher(self, made: Restored, guidance: float) -> NoisePredictor:
        """Return the teacher's score of a batch's prompts, with guidance inside."""
        prompts = {"prompt_embeds": made.embeds, "negative_embeds": self.negative_embeds}
        return partial(self.backbone.teacher, guidance=guidance, **prompts)


def distance_signals(name: str, distance: Tensor, timesteps: Tensor) -> dict[str, Tensor]:
    """Report distances (B,) between scores at timesteps (B,): sum and count for each share of timesteps."""
    sums, counts = binned(distance, timesteps, BINS)  # (BINS,) each
    signals = {}
    for number, (total, count) in enumerate(zip(sums, counts, strict=True)):
        label = f"{name}/distance at t {1000 * number // BINS}"
        signals |= {f"sum/{label}": total, f"count/{label}": count}
    return signals


def binned(distance: Tensor, timesteps: Tensor, bins: int, total: int = 1000) -> tuple[Tensor, Tensor]:
    """Sum distances (B,) and count them by timestep (B,): (bins,) each, for equal shares of `total` steps."""
    place = timesteps * bins // total  # (B,)
    both = torch.stack([distance.float(), torch.ones_like(distance, dtype=torch.float32)])  # (2, B)
    sums, counts = torch.zeros(2, bins, device=distance.device).index_add_(1, place, both)  # (bins,) each
    return sums, counts

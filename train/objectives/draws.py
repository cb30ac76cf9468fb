"""What is random in a training step, drawn from the seed and the samples' numbers alone.

There is no state to save: sample 1000 meets the same noise whether the run was interrupted or not, and
whichever process trains on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from osediff_core.device.memory import upload

from ..randomness.streams import stream
from .batch import Draws
from .registry import LossConfig


def draw(
    seed: int, samples: Sequence[int], shape: tuple[int, ...], loss: LossConfig, device: torch.device
) -> Draws:
    """Draw what the samples of these numbers need, latents (C, h, w) like `shape`; equal on all devices."""
    generators = [stream(seed, "noise", sample) for sample in samples]

    def normal() -> Tensor:
        return upload(torch.stack([torch.randn(shape, generator=g) for g in generators]), device)

    def timesteps(low: int, high: int) -> Tensor:
        drawn = torch.cat([torch.randint(low, high, (1,), generator=g) for g in generators])  # (B,)
        return upload(drawn, device)

    def for_critic() -> tuple[Tensor, Tensor]:
        return normal(), timesteps(loss.critic_first_step, loss.critic_last_step)

    posterior, noise = normal(), normal()
    steps = timesteps(loss.vsd_first_step, loss.vsd_last_step)
    first = for_critic() if loss.critic_draws == "own" else (noise, steps)
    more = tuple(for_critic() for _ in range(loss.critic_updates - 1))
    return Draws(posterior, noise, steps, *first, more)

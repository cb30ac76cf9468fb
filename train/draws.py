"""What is random in a training step, drawn from the seed and the step's number alone.

There is no state to save: step 1000 draws the same numbers whether the run was interrupted or not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # the configuration needs the data set, which needs the streams below
    from .config import LossConfig


@dataclass(frozen=True)
class Draws:
    """Noise (B, C, h, w), standard normal, and timesteps (B,) of one step."""

    posterior: Tensor
    vsd_noise: Tensor
    vsd_timesteps: Tensor
    critic_noise: Tensor
    critic_timesteps: Tensor


def stream(seed: int, *what: str | int) -> torch.Generator:
    """Make a CPU generator for one purpose; streams of different names do not overlap.

    The name is hashed because PyTorch's CPU generator looks at 32 bits of its seed only, and neighbouring
    seeds would otherwise share streams.
    """
    name = "/".join(map(str, (seed, *what))).encode()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:4], "little"))


def draw(seed: int, step: int, shape: tuple[int, ...], loss: LossConfig, device: torch.device) -> Draws:
    """Draw what step `step` needs for latents of `shape` (B, C, h, w), the same numbers on every device."""
    generator = stream(seed, "step", step)

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    def timesteps(low: int, high: int) -> Tensor:
        return torch.randint(low, high, shape[:1], generator=generator).to(device)

    return Draws(
        posterior=normal(),
        vsd_noise=normal(),
        vsd_timesteps=timesteps(loss.vsd_first_step, loss.vsd_last_step),
        critic_noise=normal(),
        critic_timesteps=timesteps(0, 1000),
    )

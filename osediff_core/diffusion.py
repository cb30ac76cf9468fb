"""The diffusion mathematics of OSEDiff: a noise schedule and the closed form of its one step.

Symbols: `z_t` is a noisy latent, `eps` the noise in it, `alpha_bar` the cumulative product of 1 - beta at
the latent's timestep, either one number for all or one per image, (B,).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import limits
from .errors import OSEDiffError


def alphas_cumprod(scheduler: Mapping[str, Any]) -> Tensor:
    """Return alpha_bar for every training timestep, (T,) float32, from a diffusers scheduler config.

    A key that is absent has the diffusers default. Raises OSEDiffError for a schedule that has no closed
    form at the last timestep (zero terminal SNR) or that is not known here.
    """
    if scheduler.get("rescale_betas_zero_snr"):
        raise OSEDiffError(
            "the scheduler of this base has zero signal at the last timestep (rescale_betas_zero_snr), where "
            "one step cannot start: use a base with an ordinary schedule, such as Stable Diffusion 2.1-base"
        )
    return torch.cumprod(1.0 - _betas(scheduler), dim=0)  # (T,)


def _betas(scheduler: Mapping[str, Any]) -> Tensor:
    """Return the noise variances, (T,) float32."""
    trained = scheduler.get("trained_betas")
    if trained is not None:
        numbers = trained if isinstance(trained, list | tuple) else ()
        betas = torch.tensor([_beta("trained_betas", n) for n in numbers[: limits.SCHEDULE_STEPS + 1]])
        _steps("the length of trained_betas", len(betas))
        return betas
    steps = _steps("num_train_timesteps", scheduler.get("num_train_timesteps", 1000))
    start = _beta("beta_start", scheduler.get("beta_start", 0.0001))
    end = _beta("beta_end", scheduler.get("beta_end", 0.02))
    schedule = scheduler.get("beta_schedule", "linear")
    if schedule == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float32)
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
    raise OSEDiffError(
        f"the scheduler of this base has beta_schedule {schedule!r}, but only linear and scaled_linear are "
        "known: use a base of the Stable Diffusion 1 or 2 family"
    )


def _beta(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise OSEDiffError(
            f"the scheduler of this base has {name} {value!r}, expected from 0 to below 1: get the base again"
        )
    return float(value)


def _steps(name: str, value: object) -> int:
    if not isinstance(value, int) or not 1 <= value <= limits.SCHEDULE_STEPS:
        raise OSEDiffError(
            f"the scheduler of this base has {name} {value!r}, expected 1 to {limits.SCHEDULE_STEPS:,}: "
            "get the base again"
        )
    return value


def predict_x0(z_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return the clean latent that `z_t` and its noise imply, float32 (B, C, h, w).

    x0 = (z_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar): the paper's equation 1 solved for z. The published
    code reaches it through a scheduler of one step, whose previous alpha_bar is 1.
    """
    a = alpha_bar.float()
    a = a.reshape(-1, 1, 1, 1) if a.ndim else a  # one number may lie on another device than the images
    return (z_t.float() - (1.0 - a).sqrt() * eps.float()) / a.sqrt()  # (B, C, h, w)


def add_noise(z: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return sqrt(alpha_bar) z + sqrt(1 - alpha_bar) noise, float32 (B, C, h, w): forward diffusion."""
    a = alpha_bar.float()
    a = a.reshape(-1, 1, 1, 1) if a.ndim else a  # one number may lie on another device than the images
    return a.sqrt() * z.float() + (1.0 - a).sqrt() * noise.float()  # (B, C, h, w)

"""Classifier score distillation (PiSA-SR): what guidance adds to the teacher, without a critic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from osediff_core.diffusion import add_noise, predict_x0

from ..networks.guidance import guided
from .batch import Restored
from .objective import Context, Objective, distance_signals
from .vsd import VSDSettings, normalised


@dataclass
class CSDSettings(VSDSettings):
    """Of the section `loss`."""

    lambda_csd: float = 0.0
    """Weight of classifier score distillation, which needs no critic; guidance and timesteps are VSD's."""


def csd(settings: CSDSettings, context: Context) -> Objective:
    """Make the objective: the teacher is a role of the backbone."""

    def loss(made: Restored) -> tuple[Tensor, dict[str, Tensor]]:
        prompts = {"prompt_embeds": made.embeds, "negative_embeds": context.negative_embeds}
        teacher = partial(context.backbone.teacher_pair, **prompts)
        noise, timesteps = made.draws.vsd_noise, made.draws.vsd_timesteps
        value, distance = csd_loss(
            made.z, noise, timesteps, context.alphas_cumprod, teacher, settings.guidance
        )
        return value, {"csd/distance": distance.mean()} | distance_signals("csd", distance, timesteps)

    return Objective(settings.lambda_csd, loss)


def csd_loss(
    z: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    teacher: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    guidance: float,
) -> tuple[Tensor, Tensor]:
    """Compute the classifier score distillation loss of latents (PiSA-SR), which needs no critic.

    The negative prompt's score takes the critic's place: the gradient with respect to z is 2/numel times
    (x0_negative - x0_guided) / mean|z - x0_guided|, that is guidance times what the prompt adds to the
    teacher's prediction, away from the negative one. Nothing moves where both prompts say the same.

    Args:
        z, noise, timesteps, alphas_cumprod: as for `vsd_loss`.
        teacher: (z_t, timesteps) -> predicted noise for the negative prompt and for the prompt.
        guidance: of the teacher, as in classifier-free guidance.

    Returns:
        The loss, a scalar, and mean|x0_negative - x0_guided| per sample, (B,), without gradient.
    """
    clean = z.detach()
    alpha_bar = alphas_cumprod.to(z.device)[timesteps]  # (B,)
    with torch.no_grad():
        z_t = add_noise(clean, noise, alpha_bar)  # (B, C, h, w)
        eps_negative, eps_prompt = teacher(z_t, timesteps)  # (B, C, h, w) each
        x0_negative = predict_x0(z_t, eps_negative, alpha_bar)  # (B, C, h, w)
        x0_guided = predict_x0(z_t, guided(eps_negative, eps_prompt, guidance), alpha_bar)  # (B, C, h, w)
        direction = normalised(x0_negative - x0_guided, clean - x0_guided)  # (B, C, h, w)
        distance = (x0_negative - x0_guided).abs().mean(dim=(1, 2, 3))  # (B,)
    return F.mse_loss(z, clean - direction), distance

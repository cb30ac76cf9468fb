"""The objectives of OSEDiff as pure functions: noise and timesteps are arguments, nothing is drawn here.

Latents are (B, C, h, w) in the scaled units that the diffusion works in, pictures (B, 3, H, W) in [-1, 1],
the units of the published loss weights. Networks come in as callables, so that the mathematics can be
compared with recorded outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from osediff_core.diffusion import add_noise, predict_x0

NoisePredictor = Callable[[Tensor, Tensor], Tensor]
"""(z_t (B, C, h, w), timesteps (B,)) -> predicted noise (B, C, h, w)."""

PerceptualLoss = Callable[[Tensor, Tensor], Tensor]
"""(sr, hq), both (B, 3, H, W) in [-1, 1] -> one value per sample, (B,)."""

SMALLEST_WEIGHT = 1e-8
"""Keeps the VSD weight from dividing by zero; real weights are between 0.01 and 10."""


def guided(eps_negative: Tensor, eps_prompt: Tensor, scale: float) -> Tensor:
    """Move from the negative prompt's prediction towards the prompt's: classifier-free guidance."""
    return eps_negative + scale * (eps_prompt - eps_negative)


def vsd_loss(
    z: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    critic: NoisePredictor,
    teacher: NoisePredictor,
) -> tuple[Tensor, Tensor]:
    """Compute the variational score distillation loss of latents, and how far the two scores are apart.

    The loss is built so that its gradient with respect to z is 2/numel times
    (x0_critic - x0_teacher) / mean|z - x0_teacher|, both clean latents predicted from the same noised z.
    This is the form of the published code; eq. 7 of the paper is written for the noise and leaves the
    weight open. No gradient enters the networks.

    Args:
        z: generator latents, (B, C, h, w).
        noise: standard normal, the shape of z.
        timesteps: (B,), whole numbers.
        alphas_cumprod: (T,), float32.
        critic, teacher: the two scores; guidance, if any, is inside `teacher`.

    Returns:
        The loss, a scalar, and mean|x0_critic - x0_teacher| per sample, (B,), without gradient.
    """
    clean = z.detach()
    alpha_bar = alphas_cumprod.to(z.device)[timesteps]  # (B,)
    with torch.no_grad():
        z_t = add_noise(clean, noise, alpha_bar)  # (B, C, h, w)
        x0_critic = predict_x0(z_t, critic(z_t, timesteps), alpha_bar)  # (B, C, h, w)
        x0_teacher = predict_x0(z_t, teacher(z_t, timesteps), alpha_bar)  # (B, C, h, w)
        weight = (clean - x0_teacher).abs().mean(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
        direction = (x0_critic - x0_teacher) / weight.clamp(min=SMALLEST_WEIGHT)  # (B, C, h, w)
        distance = (x0_critic - x0_teacher).abs().mean(dim=(1, 2, 3))  # (B,)
    return F.mse_loss(z, clean - direction), distance


def critic_loss(
    z: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, critic: NoisePredictor
) -> Tensor:
    """Compute the denoising loss that keeps the critic's score that of the generator's latents (eq. 9).

    Args:
        z: generator latents, (B, C, h, w); no gradient flows back into them.
        noise: standard normal, the shape of z. timesteps: (B,). alphas_cumprod: (T,).
    """
    z_t = add_noise(z.detach(), noise, alphas_cumprod.to(z.device)[timesteps])  # (B, C, h, w)
    return F.mse_loss(critic(z_t, timesteps).float(), noise.float())


def data_loss(sr: Tensor, hq: Tensor) -> Tensor:
    """Compute the mean squared error of pictures in [-1, 1] (eq. 5, first term)."""
    return F.mse_loss(sr.float(), hq.float())

"""The objectives of OSEDiff as pure functions: noise and timesteps are arguments, nothing is drawn here.

Latents are (B, C, h, w) in the scaled units that the diffusion works in, pictures (B, 3, H, W) in [-1, 1],
the units of the published loss weights. Networks come in as callables, so that the mathematics can be
compared with recorded outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from osediff_core.diffusion import add_noise, predict_x0

from ..networks.guidance import guided

NoisePredictor = Callable[[Tensor, Tensor], Tensor]
"""(z_t (B, C, h, w), timesteps (B,)) -> predicted noise (B, C, h, w)."""

PerceptualLoss = Callable[[Tensor, Tensor], Tensor]
"""(sr, hq), both (B, 3, H, W) in [-1, 1] -> one value per sample, (B,)."""

VSDForm = Literal["published", "paper"]

DataTerm = Literal["mse", "log_mse"]

TERMS = ("data", "perceptual", "vsd", "csd", "gan", "tone")
"""The generator's losses; lambda_<term> of the configuration is the weight of each."""

SMALL_ERROR = 4e-4
"""Mean squared error of pictures in [-1, 1] at 40 dB: below it, log_mse has little left to gain."""

TONE_CELL = 16
"""Side, in pixels, of the squares whose averages `tone_loss` compares, past the noise of single pixels."""

SMALLEST_WEIGHT = 1e-8
"""Keeps the VSD weight from dividing by zero; real weights are between 0.01 and 10."""


def vsd_loss(
    z: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    critic: NoisePredictor,
    teacher: NoisePredictor,
    form: VSDForm = "published",
) -> tuple[Tensor, Tensor]:
    """Compute the variational score distillation loss of latents, and how far the two scores are apart.

    The loss is built so that its gradient with respect to z is 2/numel times a direction. In the published
    form that is (x0_critic - x0_teacher) / mean|z - x0_teacher|, both clean latents predicted from the same
    noised z. In the paper's (eq. 7) it is w(t) (eps_teacher - eps_critic), where w(t) is left open; here it
    is 1 - alpha_bar, as in DreamFusion. No gradient enters the networks.

    Args:
        z: generator latents, (B, C, h, w). noise: standard normal, the shape of z.
        timesteps: (B,), whole numbers. alphas_cumprod: (T,), float32.
        critic, teacher: the two scores; guidance, if any, is inside `teacher`.

    Returns the loss, a scalar, and mean|x0_critic - x0_teacher| per sample, (B,), without gradient.
    """
    clean = z.detach()
    alpha_bar = alphas_cumprod.to(z.device)[timesteps]  # (B,)
    with torch.no_grad():
        z_t = add_noise(clean, noise, alpha_bar)  # (B, C, h, w)
        eps_critic, eps_teacher = critic(z_t, timesteps), teacher(z_t, timesteps)  # (B, C, h, w) each
        x0_critic, x0_teacher = (predict_x0(z_t, eps, alpha_bar) for eps in (eps_critic, eps_teacher))
        if form == "paper":
            direction = (1 - alpha_bar).view(-1, 1, 1, 1) * (eps_teacher - eps_critic)  # (B, C, h, w)
        else:
            direction = normalised(x0_critic - x0_teacher, clean - x0_teacher)  # (B, C, h, w)
        distance = (x0_critic - x0_teacher).abs().mean(dim=(1, 2, 3))  # (B,)
    return F.mse_loss(z, clean - direction), distance


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


def normalised(direction: Tensor, by: Tensor) -> Tensor:
    """Divide each sample of (B, C, h, w) by the mean absolute value of the other tensor's."""
    weight = by.abs().mean(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
    return direction / weight.clamp(min=SMALLEST_WEIGHT)


def binned(distance: Tensor, timesteps: Tensor, bins: int, total: int = 1000) -> tuple[Tensor, Tensor]:
    """Sum distances (B,) and count them by timestep (B,): (bins,) each, for equal shares of `total` steps."""
    place = timesteps * bins // total  # (B,)
    both = torch.stack([distance.float(), torch.ones_like(distance, dtype=torch.float32)])  # (2, B)
    sums, counts = torch.zeros(2, bins, device=distance.device).index_add_(1, place, both)  # (bins,) each
    return sums, counts


def adversarial_loss(verdict: Tensor) -> Tensor:
    """Compute the generator's part of the hinge GAN loss from verdicts on its pictures, of any shape."""
    return -verdict.float().mean()


def discriminator_loss(verdict_hq: Tensor, verdict_sr: Tensor) -> Tensor:
    """Compute the discriminator's hinge loss: above 1 on real pictures, below -1 on restored ones."""
    return F.relu(1 - verdict_hq.float()).mean() + F.relu(1 + verdict_sr.float()).mean()


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


def data_loss(sr: Tensor, hq: Tensor, term: DataTerm = "mse") -> Tensor:
    """Compute the data term of pictures (B, 3, H, W) in [-1, 1], a scalar.

    "mse" is the paper's (eq. 5, first term). "log_mse" is the mean of log(1 + mse / SMALL_ERROR) over the
    pictures, which is proportional to PSNR: a smooth picture, whose error is small, counts like any other.
    """
    errors = (sr.float() - hq.float()).square().mean(dim=(1, 2, 3))  # (B,)
    return errors.mean() if term == "mse" else torch.log1p(errors / SMALL_ERROR).mean()


def tone_loss(sr: Tensor, hq: Tensor) -> Tensor:
    """Compute the mean absolute difference of local averages of pictures (B, 3, H, W) in [-1, 1], a scalar.

    The averages are over squares of TONE_CELL pixels, smaller ones at the right and lower border. They keep
    a faint tint, which is a small error beside noise and blur, and what else is as large as a square.
    """
    means = F.avg_pool2d(sr.float() - hq.float(), TONE_CELL, ceil_mode=True)  # averages are linear
    return means.abs().mean()

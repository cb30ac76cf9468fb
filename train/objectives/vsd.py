"""Variational score distillation: latents are moved to where the teacher's score wants them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from osediff_core.diffusion import add_noise, predict_x0

from .batch import Restored
from .critic import CriticSettings, critic
from .objective import Context, NoisePredictor, Objective, distance_signals

VSDForm = Literal["published", "paper"]

SMALLEST_WEIGHT = 1e-8
"""Keeps the weight from dividing by zero; real weights are between 0.01 and 10."""


@dataclass
class VSDSettings(CriticSettings):
    """Of the section `loss`."""

    lambda_vsd: float = 1.0
    """Weight of variational score distillation (lambda_2 of the paper); 0 leaves teacher and critic out."""
    guidance: float = 7.5
    """Classifier-free guidance of the teacher; 1 is none."""
    vsd_first_step: int = 20
    """Smallest diffusion timestep of the VSD loss, 0 to 999."""
    vsd_last_step: int = 980
    """The VSD loss draws timesteps below this one, up to 1000."""
    vsd_form: VSDForm = "published"
    """Direction of the VSD loss: normalised, between clean latents (published), or between noises (eq. 7)."""
    vsd_space: Literal["latent", "image"] = "latent"
    """Where VSD acts: on the generator's latent, or on its picture, encoded by the base's VAE (Table 3)."""


def vsd(settings: VSDSettings, context: Context) -> Objective:
    """Make the objective, and the critic: it and the teacher are roles of the backbone."""
    context.opponents["critic"] = critic(settings, context)
    backbone, alphas = context.backbone, context.alphas_cumprod

    def loss(made: Restored) -> tuple[Tensor, dict[str, Tensor]]:
        teacher = context.teacher(made, settings.guidance)
        fake = partial(backbone.critic, prompt_embeds=made.embeds)
        noise, timesteps = made.draws.vsd_noise, made.draws.vsd_timesteps
        value, distance = vsd_loss(made.z, noise, timesteps, alphas, fake, teacher, settings.vsd_form)
        signals = {"vsd/teacher_critic_distance": distance.mean()}
        return value, signals | distance_signals("vsd", distance, timesteps)

    return Objective(settings.lambda_vsd, loss)


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


def normalised(direction: Tensor, by: Tensor) -> Tensor:
    """Divide each sample of (B, C, h, w) by the mean absolute value of the other tensor's."""
    weight = by.abs().mean(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
    return direction / weight.clamp(min=SMALLEST_WEIGHT)

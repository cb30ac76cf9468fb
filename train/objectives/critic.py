"""The critic: it learns the score of what the generator makes, for variational score distillation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from osediff_core.diffusion import add_noise

from .batch import Restored
from .objective import Context, NoisePredictor, Opponent


@dataclass
class CriticSettings:
    """Of the section `loss`."""

    critic_updates: int = 1
    """Steps of the critic for each of the generator."""
    critic_first_step: int = 0
    """Smallest diffusion timestep of the critic's loss, 0 to 999."""
    critic_last_step: int = 1000
    """The critic's loss draws timesteps below this one, up to 1000."""
    critic_warmup: int = 0
    """First steps of the run in which only the critic learns; the generator and its schedule wait."""
    critic_draws: Literal["own", "shared"] = "own"
    """Noise and timesteps of the critic's first step: its own (published), or those of VSD (Algorithm 1)."""


def critic(settings: CriticSettings, context: Context) -> Opponent:
    """Make the opponent, on the backbone's third role."""
    backbone = context.backbone

    def loss(made: Restored, update: int) -> Tensor:
        predict = partial(backbone.critic, prompt_embeds=made.embeds)
        return critic_loss(made.z, *made.draws.for_critic(update), context.alphas_cumprod, predict)

    parameters = backbone.critic_parameters()
    updater = context.updater(parameters)
    return Opponent("critic", parameters, updater, loss, settings.critic_updates, backbone.as_critic)


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

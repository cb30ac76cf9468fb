"""A GAN in the latent's noise (DMD2): a head on the critic's features tells restored latents from HQ ones.

Yin et al., Improved Distribution Matching Distillation, NeurIPS 2024, arXiv 2405.14867. VSD is only as good
as the teacher; a discriminator looks at the originals themselves. Both kinds of latents are noised first, so
that the head compares distributions at every scale, and the critic learns its task besides its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osediff_core.diffusion import add_noise

from ..randomness.streams import stream
from .batch import Restored
from .critic import CriticSettings, critic
from .objective import Context, Objective, Opponent

WIDTH, GROUPS = 64, 8
HEAD = "head."


@dataclass
class DiffusionGANSettings(CriticSettings):
    """Of the section `loss`."""

    lambda_diffusion_gan: float = 0.0
    """Weight of the GAN on the critic's features (DMD2: 0.001 beside a VSD of 1, for Stable Diffusion)."""
    critic_gan: float = 0.01
    """Weight, in the critic's loss, of telling restored latents from HQ ones (DMD2: 0.01)."""


class Head(nn.Module):
    """Features (B, F, h, w) of the UNet's middle -> verdicts (B, 1, h, w), above 0 for HQ; at first all 0."""

    def __init__(self, features: int, generator: torch.Generator) -> None:
        """Start from weights that `generator` (CPU) draws."""
        super().__init__()
        first, last = nn.Conv2d(features, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 1, 1)
        drawn = torch.empty(first.weight.shape)
        first.weight.data.copy_(drawn.normal_(0, math.sqrt(1 / (9 * features)), generator=generator))
        for tensor in (first.bias, last.weight, last.bias):
            nn.init.zeros_(tensor)  # pyright: ignore[reportArgumentType]
        self.layers = nn.Sequential(first, nn.GroupNorm(GROUPS, WIDTH), nn.SiLU(), last)

    def forward(self, features: Tensor) -> Tensor:
        """Judge features, in float32."""
        return self.layers(features.float())


def diffusion_gan(settings: DiffusionGANSettings, context: Context) -> Objective:
    """Make the objective, and let the critic learn with the head."""
    backbone, alphas = context.backbone, context.alphas_cumprod
    head = Head(backbone.bottleneck_width, stream(context.seed, "diffusion_gan")).to(context.device)
    plain = context.opponents.get("critic") or critic(settings, context)
    context.opponents["critic"] = with_head(plain, head, settings.critic_gan, context)

    def loss(made: Restored) -> tuple[Tensor, dict[str, Tensor]]:
        def verdict(z: Tensor) -> Tensor:
            alpha_bar = alphas[made.draws.vsd_timesteps]  # (B,)
            z_t = add_noise(z, made.draws.vsd_noise, alpha_bar)
            return head(backbone.critic_features(z_t, made.draws.vsd_timesteps, made.embeds))

        with backbone.as_critic():  # where activations are computed again, they meet the critic's adapters
            z = made.z.detach().requires_grad_()
            value = generator_loss(verdict(z))
            (gradient,) = torch.autograd.grad(value, z)
        return passed_on(value.detach(), gradient, made.z), {}

    return Objective(settings.lambda_diffusion_gan, loss)


def with_head(plain: Opponent, head: Head, weight: float, context: Context) -> Opponent:
    """Let a critic also tell latents apart: its loss gets the head's, and the head is trained with it."""
    backbone, alphas = context.backbone, context.alphas_cumprod

    def loss(made: Restored, update: int) -> Tensor:
        assert made.z_target is not None, "the stepper encodes the HQ pictures where this objective is used"
        noise, timesteps = made.draws.for_critic(update)
        verdicts = [
            head(backbone.critic_features(add_noise(z, noise, alphas[timesteps]), timesteps, made.embeds))
            for z in (made.z_target, made.z)
        ]
        return plain.loss(made, update) + weight * head_loss(*verdicts)

    own = {HEAD + name: parameter for name, parameter in head.named_parameters()}
    parameters = {**plain.parameters, **own}
    return replace(plain, parameters=parameters, updater=context.updater(parameters), loss=loss)


def generator_loss(verdict: Tensor) -> Tensor:
    """Compute the generator's non-saturating loss, -log D, from verdicts on its latents, of any shape."""
    return F.softplus(-verdict).mean()


def head_loss(verdict_hq: Tensor, verdict_restored: Tensor) -> Tensor:
    """Compute the head's loss, -log D(hq) - log(1 - D(restored)), from verdicts of any shape."""
    return F.softplus(-verdict_hq).mean() + F.softplus(verdict_restored).mean()


def passed_on(value: Tensor, gradient: Tensor, z: Tensor) -> Tensor:
    """Return a scalar of this value, whose gradient with respect to z is this one."""
    return value + (gradient * (z - z.detach())).sum()

"""Target score matching (TSD-SR): the teacher's score at the restored latent becomes that at the HQ one.

Dong et al., TSD-SR, CVPR 2025, arXiv 2411.18263. VSD moves a latent by what the teacher says about it, which
misleads while it is far from anything the teacher knows; here the teacher also looks at the original.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from osediff_core.diffusion import add_noise, predict_x0

from .batch import Restored
from .objective import Context, NoisePredictor, Objective, distance_signals
from .vsd import VSDSettings, normalised


@dataclass
class TSMSettings(VSDSettings):
    """Of the section `loss`."""

    lambda_tsm: float = 0.0
    """Weight of target score matching (TSD-SR), which needs no critic; guidance and timesteps are VSD's."""


def tsm(settings: TSMSettings, context: Context) -> Objective:
    """Make the objective: the teacher is a role of the backbone."""

    def loss(made: Restored) -> tuple[Tensor, dict[str, Tensor]]:
        assert made.z_target is not None, "the stepper encodes the HQ pictures where this objective is used"
        teacher = context.teacher(made, settings.guidance)
        noise, timesteps = made.draws.vsd_noise, made.draws.vsd_timesteps
        value, distance = tsm_loss(made.z, made.z_target, noise, timesteps, context.alphas_cumprod, teacher)
        return value, {"tsm/distance": distance.mean()} | distance_signals("tsm", distance, timesteps)

    return Objective(settings.lambda_tsm, loss)


def tsm_loss(
    z: Tensor,
    z_target: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    teacher: NoisePredictor,
) -> tuple[Tensor, Tensor]:
    """Compute the target score matching loss of latents, and how far the two scores are apart.

    The same noise is added to the restored and to the original latent, and the gradient with respect to z is
    2/numel times w(t) (eps_teacher(z_t) - eps_teacher(z_target_t)): the teacher's Jacobian is left out, as in
    VSD. w(t) is that of the published VSD, sqrt((1 - alpha_bar) / alpha_bar) over mean|z - x0_teacher(z_t)|,
    so that the weights of the two compare.

    Args:
        z, z_target: latents of the generator and of the original, (B, C, h, w).
        noise, timesteps, alphas_cumprod: as for `vsd_loss`. teacher: with its guidance inside.

    Returns the loss, a scalar, and mean|eps_teacher(z_t) - eps_teacher(z_target_t)| per sample, (B,).
    """
    clean = z.detach()
    alpha_bar = alphas_cumprod.to(z.device)[timesteps]  # (B,)
    with torch.no_grad():
        z_t = add_noise(clean, noise, alpha_bar)  # (B, C, h, w)
        eps = teacher(z_t, timesteps)  # (B, C, h, w)
        further = eps - teacher(add_noise(z_target, noise, alpha_bar), timesteps)  # (B, C, h, w)
        to_latent = ((1 - alpha_bar) / alpha_bar).sqrt().view(-1, 1, 1, 1)
        direction = normalised(to_latent * further, clean - predict_x0(z_t, eps, alpha_bar))  # (B, C, h, w)
        distance = further.abs().mean(dim=(1, 2, 3))  # (B,)
    return F.mse_loss(z, clean - direction), distance

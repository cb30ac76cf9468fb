"""The objectives that there are: a new one is a file like `tsm.py`, and stands in the places below."""

from __future__ import annotations

from dataclasses import dataclass

from .csd import CSDSettings, csd
from .diffusion_gan import DiffusionGANSettings, diffusion_gan
from .gan import GANSettings, gan
from .objective import Context, Objective
from .perceptual import PerceptualSettings, perceptual
from .pixels import PixelSettings, data, tone
from .tsm import TSMSettings, tsm
from .vsd import vsd


@dataclass
class LossConfig(
    DiffusionGANSettings, GANSettings, CSDSettings, TSMSettings, PerceptualSettings, PixelSettings
):
    """Weights of the objectives, for pictures in [-1, 1] and latents in scaled units."""


OBJECTIVES = {
    "data": data, "perceptual": perceptual, "tone": tone, "vsd": vsd, "tsm": tsm, "csd": csd, "gan": gan,
    "diffusion_gan": diffusion_gan,
}  # fmt: skip
"""What makes each, by name; lambda_<name> of the configuration is its weight."""

WITH_CRITIC = ("vsd", "diffusion_gan")
WITH_HQ_LATENTS = ("tsm", "diffusion_gan")


def build_objectives(loss: LossConfig, context: Context) -> dict[str, Objective]:
    """Make those that have a weight, and the data term; `context` gets their opponents."""
    wanted = {name: make for name, make in OBJECTIVES.items() if name == "data" or weight(loss, name) > 0}
    made = {name: make(loss, context) for name, make in wanted.items()}
    return {name: objective for name, objective in made.items() if objective is not None}


def weight(loss: LossConfig, name: str) -> float:
    """Return the weight of an objective."""
    return getattr(loss, f"lambda_{name}")


def uses_critic(loss: LossConfig) -> bool:
    """Say whether an objective needs the backbone's third role."""
    return any(weight(loss, name) > 0 for name in WITH_CRITIC)


def uses_hq_latents(loss: LossConfig) -> bool:
    """Say whether an objective compares with the latents of the HQ pictures."""
    return any(weight(loss, name) > 0 for name in WITH_HQ_LATENTS)


def sees_pictures(loss: LossConfig) -> bool:
    """Say whether distillation and critic see the restored picture, encoded again, in the latent's place."""
    return uses_critic(loss) and loss.vsd_space == "image"

"""The section `loss` of the configuration: the weight of each objective, and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .losses import DataTerm, VSDForm
from .perceptual import PerceptualName


@dataclass
class LossConfig:
    """Weights of the objectives, for pictures in [-1, 1] and latents in scaled units."""

    lambda_data: float = 1.0
    """Weight of the data term."""
    lambda_perceptual: float = 2.0
    """Weight of the perceptual term (lambda_1 of the paper)."""
    lambda_vsd: float = 1.0
    """Weight of variational score distillation (lambda_2 of the paper); 0 leaves teacher and critic out."""
    perceptual: PerceptualName = "lpips"
    """Perceptual term: "lpips" (VGG, as in the paper), or, with nothing to download, "gradient",
    "structure" (gradients and SSIM) or "none"."""
    guidance: float = 7.5
    """Classifier-free guidance of the teacher; 1 is none."""
    vsd_first_step: int = 20
    """Smallest diffusion timestep of the VSD loss, 0 to 999."""
    vsd_last_step: int = 980
    """The VSD loss draws timesteps below this one, up to 1000."""
    lambda_tone: float = 0.0
    """Weight of the averages of small squares, against tints; 10 cost the demo some SSIM (CHANGELOG.md)."""
    lambda_csd: float = 0.0
    """Weight of classifier score distillation, which needs no critic; guidance and timesteps are VSD's."""
    lambda_gan: float = 0.0
    """Weight of a hinge GAN loss on pictures, with a small convolutional discriminator of its own."""
    vsd_form: VSDForm = "published"
    """Direction of the VSD loss: normalised, between clean latents (published), or between noises (eq. 7)."""
    vsd_space: Literal["latent", "image"] = "latent"
    """Where VSD acts: on the generator's latent, or on its picture, encoded by the base's VAE (Table 3)."""
    critic_updates: int = 1
    """Steps of the critic for each of the generator."""
    critic_first_step: int = 0
    """Smallest diffusion timestep of the critic's loss, 0 to 999."""
    critic_last_step: int = 1000
    """The critic's loss draws timesteps below this one, up to 1000."""
    critic_draws: Literal["own", "shared"] = "own"
    """Noise and timesteps of the critic's first step: its own (published), or those of VSD (Algorithm 1)."""
    data: DataTerm = "mse"
    """The data term: "mse", or "log_mse", which weighs every picture by its own error, as PSNR does."""

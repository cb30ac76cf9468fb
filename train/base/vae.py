"""A small VAE, trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osediff_core.model import LOG_VARIANCE
from osediff_core.network.config import VAEConfig
from osediff_core.network.vae import VAE

from ..objectives.pixels import tone_loss
from .folder import read_vae
from .norms import bias_of


@dataclass(frozen=True)
class VaeConfig:
    """Architecture and training of the VAE."""

    start_from: str = ""
    """Folder of a VAE of the same architecture to go on from; empty: from the beginning."""
    widths: tuple[int, ...] = (16, 32)
    """Channels per level; the reduction is 2 ** (levels - 1)."""
    latent_channels: int = 6
    linear_start: bool = True
    """Begin as a linear autoencoder (`train.base.linear`), which needs two levels; else at random."""
    norm_groups: int = 4
    crop: int = 96
    """Side of the training crops, pixels."""
    batch: int = 8
    steps: int = 1000
    """Length of the training; the learning rate falls to zero over it."""
    lr: float = 1e-3
    kl_weight: float = 1e-4
    """Weight of the KL term per latent element: keeps the latents bounded and smooth, no more."""
    pooled_weight: float = 2.0
    """Weight of the error of 16-pixel averages: the eye sees a tint before it sees noise."""


def build_vae(config: VaeConfig) -> VAE:
    """Build the VAE: untrained, or the one to go on from with its scaling factor taken out."""
    if config.start_from:
        vae = read_vae(Path(config.start_from))
        vae.config = replace(vae.config, scaling_factor=1.0)
        return vae
    levels = len(config.widths)
    settings = VAEConfig(
        block_out_channels=config.widths,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        mid_block_add_attention=False,
        sample_size=config.crop,
        scaling_factor=1.0,
    )
    vae = VAE(settings)
    start_as_identity(vae)
    return vae


def start_as_identity(model: nn.Module, anchor: float = 0.3) -> None:
    """Start a residual network as a chain of its stream convolutions, which keep the signal's deviation.

    The last convolution of every residual branch is zero. A group norm divides by the deviation of what it
    sees, so a flat or dark picture is blown up and its level is lost: constants of deviation `anchor` in the
    biases of the stream let the norms keep it.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if name.endswith(("conv_in", "conv_shortcut", "samplers.0.conv", "quant_conv")):
            fan_in = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
            nn.init.normal_(module.weight, std=fan_in**-0.5)
            nn.init.normal_(bias_of(module), std=anchor)
        elif name.endswith("conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(bias_of(module))


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbours along height and width of (B, C, H, W)."""
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def vae_loss(vae: VAE, x: Tensor, noise: Tensor, config: VaeConfig) -> Tensor:
    """Loss of x (B, 3, H, W) in [-1, 1] with posterior noise (B, C, h, w)."""
    mean, logvar = vae.encode(x).float().chunk(2, dim=1)  # (B, C, h, w) each
    logvar = logvar.clamp(*LOG_VARIANCE)
    y = vae.decode(mean + torch.exp(0.5 * logvar) * noise).float()  # (B, 3, H, W)
    edges = sum(F.l1_loss(a, b) for a, b in zip(gradients(y), gradients(x), strict=True))
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    error = F.l1_loss(y, x) + F.mse_loss(y, x)
    return error + 0.5 * edges + config.pooled_weight * tone_loss(y, x) + config.kl_weight * kl


def encode_mean(vae: VAE, x: Tensor) -> Tensor:
    """Return the posterior's mean, (B, C, h, w), of x (B, 3, H, W) in [-1, 1]."""
    return vae.encode(x).chunk(2, dim=1)[0]


@torch.no_grad()
def measure_scaling_factor(vae: VAE, x: Tensor) -> float:
    """1 / deviation of the latents of x (B, 3, H, W) in [-1, 1], as for the published models."""
    return 1.0 / encode_mean(vae, x).float().std().item()

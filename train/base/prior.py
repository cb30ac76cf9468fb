"""A small text-conditioned diffusion prior on the latents of a VAE, trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osediff_core.errors import OSEDiffError
from osediff_core.network.config import UNetConfig
from osediff_core.network.layers import Level, ResnetBlock
from osediff_core.network.unet import UNet

from .linear import centred, link
from .norms import anchor, bias_of, paired_rows, room, subtract_pairs
from .vae import start_as_identity


@dataclass(frozen=True)
class PriorConfig:
    """Architecture and training of the UNet and of the text encoder that conditions it."""

    widths: tuple[int, ...] = (32, 64, 96, 128)
    """Channels per level; the deepest one attends to the text."""
    norm_groups: int = 8
    text_width: int = 64
    text_layers: int = 2
    beta_start: float = 0.00085
    beta_end: float = 0.006
    """End of the scaled-linear noise schedule. Gentler than Stable Diffusion's 0.012: alpha_bar at the last
    step is 0.046, so that errors of eps are amplified 4.6 times in x0 rather than 14.7 times, which a
    network of this size trained for minutes does not survive."""
    max_timestep: int = 980
    """The prior learns t below this; the last steps are left to the restoration, which runs at t = 999."""
    crop: int = 128
    """Side of the training crops, pixels."""
    batch: int = 16
    steps: int = 2000
    """Length of the training; the learning rate falls to zero over it."""
    lr: float = 1e-3
    output_lr_scale: float = 0.1
    """Factor on the learning rate of the last norm and convolution, where eps is amplified in x0."""
    drop_prompt: float = 0.2
    """Share of the samples that see the empty prompt, as classifier-free guidance needs."""
    degraded: float = 0.15
    """Share of the samples that are blurred and noisy and say so in their prompt: what the negative
    prompt of the guidance then points away from."""


def build_unet(config: PriorConfig, latent_channels: int, sample_size: int) -> UNet:
    """Build the untrained UNet, started so that it passes its input through: eps = z.

    Raises OSEDiffError when its first level is too narrow for that.
    """
    needed, step = room(latent_channels, config.norm_groups), 2 * config.norm_groups
    if config.widths[0] < needed or config.widths[0] % step:
        raise OSEDiffError(
            f"expected prior.widths to begin with {needed} or more, a multiple of {step}, for "
            f"{latent_channels} latent channels, got {config.widths[0]}: change it, or prior.norm_groups"
        )
    plain = len(config.widths) - 1
    settings = UNetConfig(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=config.widths,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * plain,
        layers_per_block=1,
        norm_num_groups=config.norm_groups,
        cross_attention_dim=config.text_width,
        attention_head_dim=4,
        use_linear_projection=True,
    )
    unet = UNet(settings)
    start_as_identity(unet)
    for name, module in unet.named_modules():
        if name.endswith("proj_out"):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
    pass_through(unet)
    return unet


@torch.no_grad()
def pass_through(unet: UNet) -> None:
    """Lay a linear path z -> conv_in -> last skip connection -> conv_out through the untrained UNet.

    conv_in makes z and -z, the last skip connection copies them into the last block, the last norm sees
    them in pairs with constants beside them (`train.base.norms`), and conv_out subtracts.
    """
    latents, width = unet.config.in_channels, unet.conv_in.out_channels
    # It sees cat(hidden, skip), the skip from conv_in.
    last = cast("ResnetBlock", cast("Level", unet.up_blocks[-1]).resnets[-1]).conv_shortcut
    assert last is not None
    rows = paired_rows(latents, unet.conv_norm_out)
    link(unet.conv_in, rows, range(latents), centred(torch.cat([torch.eye(latents), -torch.eye(latents)])))
    last.weight.zero_()
    bias_of(last).zero_()
    last.weight[rows, [last.in_channels - width + row for row in rows]] = 1
    subtract_pairs(unet.conv_out, rows, anchor(last, unet.conv_norm_out, rows, 1.0))


def prior_loss(unet: UNet, z: Tensor, embeds: Tensor, t: Tensor, noise: Tensor, alphas: Tensor) -> Tensor:
    """Denoising loss (DDPM, eq. 14) of clean latents z (B, C, h, w) at timesteps t (B,)."""
    alpha_bar = alphas[t].view(-1, 1, 1, 1)
    noisy = alpha_bar.sqrt() * z + (1 - alpha_bar).sqrt() * noise  # (B, C, h, w)
    eps = unet(noisy, t, embeds).float()
    return F.mse_loss(eps, noise)

"""diffusers' networks on the weights of ours, which measurements and tests compare with."""

from __future__ import annotations

import torch
from torch import nn

from osediff_core.network.config import write_config
from osediff_core.network.unet import UNet
from osediff_core.network.vae import VAE


def as_diffusers(network: UNet | VAE) -> nn.Module:
    """Return diffusers' own network of the same settings, frozen, on the very tensors of `network`."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    kind = UNet2DConditionModel if isinstance(network, UNet) else AutoencoderKL
    settings = {name: value for name, value in write_config(network.config).items() if value is not None}
    with torch.device("meta"):
        reference = kind.from_config(settings)
    reference.load_state_dict(network.state_dict(), assign=True)
    return reference.eval().requires_grad_(False)

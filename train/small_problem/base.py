"""The base of the small problem: a UNet that really generates its pictures, on latents that lose nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from osediff_core.diffusion import add_noise, predict_x0
from osediff_core.model import LOG_VARIANCE, OSEDiff
from osediff_core.network.unet import UNet
from osediff_core.network.vae import VAE
from osediff_core.whole_files import write_whole

from ..base.fit import Keep, fit
from ..base.prior import PriorConfig, build_unet, prior_loss
from ..base.run import degrade_roughly, log_progress
from ..engine.state import checksum
from ..randomness.streams import stream
from .textures import SIDE, samples

BLOCK = 2
"""Side of the block of pixels that is one place of the latent."""
CHANNELS = BLOCK**2
DEVIATION = 0.69
"""Of the pixels in [-1, 1]; latents are divided by it."""
PRIOR = PriorConfig(widths=(24, 48), norm_groups=4, text_width=16, crop=SIDE, batch=32, steps=1500, lr=2e-3)
POOL = 144 * 64
"""Samples that base and generator are trained on."""
PROMPTS = ("", "blurry")
"""What the UNet is told: nothing, or that the picture is spoiled, which CSD turns away from."""


class BlockEncoder(nn.Module):
    """Puts the grey of 2 x 2 pixels into one place of the latent."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the moments (B, 2 C, h, w) of x (B, 3, H, W) in [-1, 1]: no deviation."""
        z = F.pixel_unshuffle(x.mean(1, keepdim=True), BLOCK)  # (B, C, h, w)
        return torch.cat([z, torch.full_like(z, LOG_VARIANCE[0])], dim=1)


class BlockVAE(nn.Module):
    """In the VAE's place: a latent is the grey of 2 x 2 pixels, and comes back as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            block_out_channels=(1, 1), latent_channels=CHANNELS, scaling_factor=1 / DEVIATION
        )
        self.dtype = torch.float32
        self.encoder, self.quant_conv = BlockEncoder(), None

    def encode(self, x: Tensor) -> Tensor:
        """Return the moments (B, 2 C, h, w) of x (B, 3, H, W) in [-1, 1]."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Return the picture (B, 3, H, W) of latents (B, C, h, w)."""
        return F.pixel_shuffle(z, BLOCK).repeat(1, 3, 1, 1)


def embeddings() -> Tensor:
    """Give what stands for PROMPTS in the UNet: (2, 1, D), fixed."""
    return torch.randn(len(PROMPTS), 1, PRIOR.text_width, generator=stream(0, "prompts"))


def build_model(unet: UNet) -> OSEDiff:
    """Put the UNet and the latents of blocks together; there is no text encoder."""
    betas = torch.linspace(PRIOR.beta_start**0.5, PRIOR.beta_end**0.5, 1000).square()
    nothing = cast("Any", None)
    model = OSEDiff(unet, cast("VAE", BlockVAE()), nothing, nothing, (1 - betas).cumprod(0))
    return model.eval().requires_grad_(False)


def base_path(folder: Path) -> Path:
    """Name the base's file, by its settings: those of others are not taken for it."""
    return folder / f"base_{checksum([repr(PRIOR), POOL])[:8]}.safetensors"


def trained_base(folder: Path) -> OSEDiff:
    """Read the base from the folder, after training it there if it is not there yet."""
    torch.manual_seed(0)  # initial weights
    unet, path = build_unet(PRIOR, CHANNELS, SIDE // BLOCK), base_path(folder)
    if not path.exists():
        train_base(unet, folder)
        write_whole(path, save(unet.state_dict()))
    unet.load_state_dict(load_file(path))
    return build_model(unet)


def train_base(unet: UNet, folder: Path) -> None:
    """Train the UNet to denoise the samples, some of them spoiled and called so."""
    generator, pool, embeds = stream(0, "base"), samples(POOL, seed=0), embeddings()
    model = build_model(unet)
    unet.requires_grad_(True).train()

    def loss_of(step: int) -> Tensor:
        x = pool[torch.randint(len(pool), (PRIOR.batch,), generator=generator)]
        spoiled = torch.rand(PRIOR.batch, generator=generator) < PRIOR.degraded
        x = torch.where(spoiled.view(-1, 1, 1, 1), degrade_roughly(x, generator), x)
        z = model.encode(x)  # (B, C, h, w)
        t = torch.randint(0, PRIOR.max_timestep, (PRIOR.batch,), generator=generator)
        noise = torch.randn(z.shape, generator=generator)
        return prior_loss(unet, z, embeds[spoiled.long()], t, noise, model.alphas_cumprod)

    keep = Keep(base_path(folder).with_suffix(".pt"), generator, {"settings": repr(PRIOR)})
    groups = [{"params": list(unet.parameters()), "lr": PRIOR.lr}]
    fit(unet, loss_of, groups, PRIOR.steps, partial(log_progress, "base", PRIOR.steps), keep)
    keep.file.unlink(missing_ok=True)


@torch.no_grad()
def generated(model: OSEDiff, count: int, seed: int, steps: int = 40) -> Tensor:
    """Let the base make `count` pictures (count, 3, SIDE, SIDE) in [0, 1] from noise (DDIM)."""
    embeds = embeddings()[:1]
    z = torch.randn(count, CHANNELS, SIDE // BLOCK, SIDE // BLOCK, generator=stream(seed, "samples"))
    times = torch.linspace(PRIOR.max_timestep - 1, 0, steps).long()  # (steps,)
    for t, after in zip(times, [*times[1:], None], strict=True):
        alpha_bar = model.alphas_cumprod[t]
        eps = model.unet(z, t.expand(count), embeds.expand(count, -1, -1))  # (count, C, h, w)
        x0 = predict_x0(z, eps, alpha_bar)
        z = x0 if after is None else add_noise(x0, eps, model.alphas_cumprod[after])
    return model.decode(z)

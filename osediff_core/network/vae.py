"""The VAE of Stable Diffusion (Rombach et al. 2022, appendix G), as lists of stages.

A stage makes the whole activation after it of the whole one before. One after the other they are the network;
`osediff_core.vae` runs the same stages in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import VAEConfig
from .layers import Attention, Downsample, Level, Ops, ResnetBlock, Upsample

EPS = 1e-6  # of every norm


class SelfAttention(Attention):
    """Attention of all pixels to each other with one head, beside a shortcut."""

    group_norm: nn.GroupNorm

    def __init__(self, width: int, groups: int, ops: Ops) -> None:
        super().__init__(width, width, 1, ops, bias=True, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, h, w) from (B, C, h, w)."""
        tokens = self.group_norm(x.flatten(2)).transpose(1, 2)  # (B, h w, C)
        return super().forward(tokens, tokens).transpose(1, 2).unflatten(2, x.shape[-2:]) + x


class NormConv(NamedTuple):
    """How either half ends: conv(silu(norm(x))), two children of the half itself."""

    norm: nn.GroupNorm
    conv: nn.Conv2d

    def __call__(self, x: Tensor) -> Tensor:
        """Return (B, C', h, w) from (B, C, h, w)."""
        return self.conv(F.silu(self.norm(x), inplace=True))


Layer = nn.Conv2d | ResnetBlock | SelfAttention | Downsample | Upsample | NormConv


class Stage(NamedTuple):
    """One step of the way through the VAE."""

    name: str
    layer: Layer


class Half(nn.Module):
    """The encoder or the decoder, to be run whole or walked through."""

    def __init__(self, config: VAEConfig, ins: int, outs: int, decoder: bool, ops: Ops) -> None:
        super().__init__()
        own = config.decoder_widths if decoder else config.block_out_channels
        widths = own[::-1] if decoder else own
        layers, groups = config.layers_per_block + decoder, config.norm_num_groups
        self.name, self.blocks = ("decoder", "up_blocks") if decoder else ("encoder", "down_blocks")
        deepest, middle = own[-1], int(config.mid_block_add_attention)
        self.conv_in = ops.Conv2d(ins, widths[0], 3, padding=1)
        self.add_module(self.blocks, nn.ModuleList())

        def level(channels: Sequence[int], width: int, attentions: int) -> Level:
            resnet = partial(ResnetBlock, outs=width, groups=groups, eps=EPS, ops=ops)
            return Level(channels, resnet, attentions, lambda: SelfAttention(width, groups, ops))

        if decoder:
            self.mid_block = level([deepest] * 2, deepest, middle)
        for before, width in zip((widths[0], *widths), widths, strict=False):
            block = level([before, *[width] * (layers - 1)], width, 0)
            if len(self.levels) < len(widths) - 1 and decoder:
                block.upsamplers.append(Upsample(width, ops))
            elif len(self.levels) < len(widths) - 1:
                block.downsamplers.append(Downsample(width, ops, padding=0))
            self.levels.append(block)
        if not decoder:  # here, so that a seed draws what it draws for diffusers' encoder
            self.mid_block = level([deepest] * 2, deepest, middle)
        self.conv_norm_out = ops.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = ops.Conv2d(widths[-1], outs, 3, padding=1)

    @property
    def levels(self) -> nn.ModuleList:
        """The levels in the order in which they run."""
        return cast("nn.ModuleList", self.get_submodule(self.blocks))

    def stages(self) -> Iterator[Stage]:
        """Yield the steps, each from (B, C, h, w) to (B, C', h', w')."""
        levels = [(f"{self.blocks}.{i}", cast("Level", level)) for i, level in enumerate(self.levels)]
        middle = ("mid_block", self.mid_block)
        yield Stage(f"{self.name}.conv_in", self.conv_in)
        for name, level in [middle, *levels] if self.name == "decoder" else [*levels, middle]:
            for i, (resnet, attention) in enumerate(level.pairs()):
                yield Stage(f"{self.name}.{name}.resnets.{i}", cast("ResnetBlock", resnet))
                if attention is not None:
                    yield Stage(f"{self.name}.{name}.attentions.{i}", cast("SelfAttention", attention))
            for sampler in (*level.downsamplers, *level.upsamplers):
                yield Stage(f"{self.name}.{name}.sampler", cast("Downsample | Upsample", sampler))
        yield Stage(f"{self.name}.conv_out", NormConv(self.conv_norm_out, self.conv_out))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the stages make of x."""
        return run_whole([layer for _, layer in self.stages()], x)


def run_whole(
    layers: Iterable[Callable[[Tensor], Tensor]], x: Tensor, on_step: Callable[[int], object] | None = None
) -> Tensor:
    """Return what the layers make of x, one after the other; on_step(done) is called after each."""
    for done, layer in enumerate(layers, start=1):
        x = layer(x)
        if on_step is not None:
            on_step(done)
    return x


class VAE(nn.Module):
    """Encoder and decoder, and the 1 x 1 convolutions between them and the latent."""

    def __init__(self, config: VAEConfig, ops: Ops = nn) -> None:
        super().__init__()
        self.config, latents = config, config.latent_channels
        self.computes_in: torch.dtype | None = None
        self.encoder = Half(config, config.in_channels, 2 * latents, False, ops)
        self.decoder = Half(config, latents, config.out_channels, True, ops)
        self.quant_conv = ops.Conv2d(2 * latents, 2 * latents, 1) if config.use_quant_conv else None
        self.post_quant_conv = ops.Conv2d(latents, latents, 1) if config.use_post_quant_conv else None

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in: as its weights, unless `computes_in` says another, and its layers cast."""
        return self.computes_in or self.encoder.conv_in.weight.dtype

    def encoder_stages(self) -> list[Stage]:
        """Return the steps from images (B, 3, H, W) in [-1, 1] to moments (B, 2 C, h, w)."""
        after = [] if self.quant_conv is None else [Stage("quant_conv", self.quant_conv)]
        return [*self.encoder.stages(), *after]

    def decoder_stages(self) -> list[Stage]:
        """Return the steps from unscaled latents (B, C, h, w) to images (B, 3, H, W) in about [-1, 1]."""
        before = [] if self.post_quant_conv is None else [Stage("post_quant_conv", self.post_quant_conv)]
        return [*before, *self.decoder.stages()]

    def encode(self, x: Tensor) -> Tensor:
        """Return mean and log variance, (B, 2 C, h, w), of images (B, 3, H, W) in [-1, 1]."""
        moments = self.encoder(x)  # (B, 2 C, h, w)
        return moments if self.quant_conv is None else self.quant_conv(moments)

    def decode(self, z: Tensor) -> Tensor:
        """Return images (B, 3, H, W) in about [-1, 1] of unscaled latents z (B, C, h, w)."""
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))

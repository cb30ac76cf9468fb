"""The UNet: the noise in a latent, given its timestep and a text (Rombach et al. 2022, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import UNetConfig
from .layers import ATTENTION_EPS, Attention, Downsample, Level, Ops, ResnetBlock, Upsample

LONGEST_PERIOD = 10_000  # of the time embedding's waves, in steps (Vaswani et al. 2017, section 3.5)


class UNet(nn.Module):
    """Down the levels, through the middle, and up again beside what was kept on the way down."""

    def __init__(self, config: UNetConfig, ops: Ops = nn) -> None:
        super().__init__()
        self.config = config
        self.computes_in: torch.dtype | None = None
        widths, layers, groups = config.block_out_channels, config.layers_per_block, config.norm_num_groups
        last = len(widths) - 1
        self.conv_in = ops.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], ops)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        kept = [widths[0]]  # channels of what is kept for the way up
        for n, kind in enumerate(config.down_block_types):
            ins = [kept[-1], *[widths[n]] * (layers - 1)]
            level = _level(config, n, ins, layers * kind.startswith("CrossAttn"), ops)
            level.downsamplers.extend([Downsample(widths[n], ops, 1)] if n < last else [])
            self.down_blocks.append(level)
            kept += [widths[n]] * (layers + (n < last))
        self.mid_block = _level(config, last, [widths[last]] * 2, 1, ops)
        for n, kind in zip(range(last, -1, -1), config.up_block_types, strict=True):
            ins = [x + kept.pop() for x in (widths[min(n + 1, last)], *[widths[n]] * layers)]
            level = _level(config, n, ins, (layers + 1) * kind.startswith("CrossAttn"), ops)
            level.upsamplers.extend([Upsample(widths[n], ops)] if n else [])
            self.up_blocks.append(level)
        self.conv_norm_out = ops.GroupNorm(groups, widths[0], config.norm_eps)
        self.conv_out = ops.Conv2d(widths[0], config.out_channels, 3, padding=1)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in; its end may have more precision.

        That of its weights, unless `computes_in` says another: then its layers cast them when they run.
        """
        return self.computes_in or self.conv_in.weight.dtype

    def forward(self, z_t: Tensor, t: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Return the noise eps (B, C, h, w) in z_t (B, C, h, w), any h and w, at timesteps t (B,).

        prompt_embeds: (B, L, D). The last norm and convolution compute in the precision of their weights.
        """
        time = self.time_embedding(t, z_t.dtype)  # (B, 4 widths[0])
        x = self.conv_in(z_t)  # (B, widths[0], h, w)
        kept = [x]
        for level in cast("list[Level]", self.down_blocks):
            for resnet, attention in level.pairs():
                x = resnet(x, time)  # (B, widths[n], h / 2^n, w / 2^n)
                x = x if attention is None else attention(x, prompt_embeds)
                kept.append(x)
            for downsample in level.downsamplers:
                x = downsample(x)  # (B, widths[n], h / 2^(n + 1), w / 2^(n + 1))
                kept.append(x)
        for resnet, attention in self.mid_block.pairs():
            x = resnet(x, time)
            x = x if attention is None else attention(x, prompt_embeds)
        for level in cast("list[Level]", self.up_blocks):
            for resnet, attention in level.pairs():
                x = resnet(torch.cat([x, kept.pop()], dim=1), time)  # (B, widths[n], h / 2^n, w / 2^n)
                x = x if attention is None else attention(x, prompt_embeds)
            for upsample in level.upsamplers:
                x = upsample(x, like=kept[-1])  # (B, widths[n], h / 2^(n - 1), w / 2^(n - 1))
        x = self.conv_norm_out(x.to(self.conv_norm_out.weight.dtype))  # (B, widths[0], h, w)
        return self.conv_out(F.silu(x, inplace=True))  # (B, C, h, w)


def _level(config: UNetConfig, n: int, ins: Sequence[int], attentions: int, ops: Ops) -> Level:
    """Return level n: residual blocks of `ins` channels, and so many transformers."""
    width, time = config.block_out_channels[n], 4 * config.block_out_channels[0]

    def resnet(channels: int) -> ResnetBlock:
        return ResnetBlock(channels, width, config.norm_num_groups, config.norm_eps, ops, time)

    return Level(ins, resnet, attentions, lambda: Transformer(width, config.heads[n], config, ops))


class TimeEmbedding(nn.Module):
    """The timestep as a vector: cosines and sines of falling frequencies, through two linear layers."""

    def __init__(self, width: int, ops: Ops) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = ops.Linear(width, 4 * width), ops.Linear(4 * width, 4 * width)
        self.waves = width // 2

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """Return (B, 4 width) in that dtype for timesteps t (B,)."""
        i = torch.arange(self.waves, device=t.device, dtype=torch.float32)
        angles = t[:, None].float() * torch.exp(-math.log(LONGEST_PERIOD) * i / self.waves)  # (B, width / 2)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1).to(dtype)  # (B, width)
        return self.linear_2(F.silu(self.linear_1(waves)))  # (B, 4 width)


class Transformer(nn.Module):
    """Attention of all pixels to each other and to the text, beside a shortcut."""

    def __init__(self, width: int, heads: int, config: UNetConfig, ops: Ops) -> None:
        super().__init__()
        self.linear = config.use_linear_projection
        self.norm = ops.GroupNorm(config.norm_num_groups, width, ATTENTION_EPS)
        self.proj_in = ops.Linear(width, width) if self.linear else ops.Conv2d(width, width, 1)
        block = TransformerBlock(width, config.cross_attention_dim, heads, ops)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = ops.Linear(width, width) if self.linear else ops.Conv2d(width, width, 1)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Return (B, C, h, w) from x (B, C, h, w) and text (B, L, D)."""
        h = self.norm(x)  # (B, C, h, w)
        h = h if self.linear else self.proj_in(h)
        h = h.flatten(2).transpose(1, 2)  # (B, h w, C)
        h = self.transformer_blocks[0](self.proj_in(h) if self.linear else h, text)
        h = self.proj_out(h) if self.linear else h
        h = h.transpose(1, 2).unflatten(2, x.shape[-2:]).contiguous()  # (B, C, h, w)
        return (h if self.linear else self.proj_out(h)) + x


class TransformerBlock(nn.Module):
    """Attention of tokens to each other, to the text, and a gated layer for each of them."""

    def __init__(self, width: int, text: int, heads: int, ops: Ops) -> None:
        super().__init__()
        self.norm1, self.attn1 = ops.LayerNorm(width), Attention(width, width, heads, ops)
        self.norm2, self.attn2 = ops.LayerNorm(width), Attention(width, text, heads, ops)
        self.norm3, self.ff = ops.LayerNorm(width), FeedForward(width, ops)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Return (B, n, C) from tokens x (B, n, C) and text (B, L, D)."""
        normed = self.norm1(x)
        x = self.attn1(normed, normed) + x
        x = self.attn2(self.norm2(x), text) + x
        return self.ff(self.norm3(x)) + x


class FeedForward(nn.Module):
    """Two linear layers for each token, four times as wide between them."""

    def __init__(self, width: int, ops: Ops) -> None:
        super().__init__()
        gated, back = GatedLinear(width, 4 * width, ops), ops.Linear(4 * width, width)
        self.net = nn.Sequential(gated, nn.Identity(), back)  # the second was a dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, n, C) from (B, n, C)."""
        return self.net(x)


class GatedLinear(nn.Module):
    """A linear layer of which one half goes through GELU and gates the other (Shazeer 2020, GEGLU)."""

    def __init__(self, ins: int, outs: int, ops: Ops) -> None:
        super().__init__()
        self.proj = ops.Linear(ins, 2 * outs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, n, outs) from (B, n, ins)."""
        value, gate = self.proj(x).chunk(2, dim=2)  # (B, n, outs) each
        return value * F.gelu(gate)

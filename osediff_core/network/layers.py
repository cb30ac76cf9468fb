"""What UNet and VAE are made of: residual blocks, changes of resolution, the attention of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

ATTENTION_EPS = 1e-6  # of the norm before an attention, whatever the config says of the others


class Ops(Protocol):
    """Where layers come from; torch.nn is one such place."""

    Linear: type[nn.Linear]
    Conv2d: type[nn.Conv2d]
    GroupNorm: type[nn.GroupNorm]
    LayerNorm: type[nn.LayerNorm]


class ResnetBlock(nn.Module):
    """shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + time))); time: width of its embedding, or 0."""

    def __init__(self, ins: int, outs: int, groups: int, eps: float, ops: Ops, time: int = 0) -> None:
        super().__init__()
        self.norm1 = ops.GroupNorm(groups, ins, eps)
        self.conv1 = ops.Conv2d(ins, outs, 3, padding=1)
        self.time_emb_proj = ops.Linear(time, outs) if time else None
        self.norm2, self.conv2 = ops.GroupNorm(groups, outs, eps), ops.Conv2d(outs, outs, 3, padding=1)
        self.conv_shortcut = ops.Conv2d(ins, outs, 1) if ins != outs else None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Return (B, outs, h, w) from x (B, ins, h, w) and the time embedding (B, time)."""
        # In place, for on a processor new memory takes longer to come than SiLU and sums to be computed.
        h = self.conv1(F.silu(self.norm1(x), inplace=True))  # (B, outs, h, w)
        if self.time_emb_proj is not None and time is not None:
            h += self.time_emb_proj(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h), inplace=True))  # (B, outs, h, w)
        h += x if self.conv_shortcut is None else self.conv_shortcut(x)
        return h


class Downsample(nn.Module):
    """Halve the sides; padding: 1, zeros all around (UNet), or 0, after the last row and column (VAE)."""

    def __init__(self, channels: int, ops: Ops, padding: int) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, 3, stride=2, padding=padding)
        self.zeros = 1 - padding  # after the last row and column

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, h / 2, w / 2) from (B, C, h, w)."""
        return self.conv(F.pad(x, (0, self.zeros, 0, self.zeros)) if self.zeros else x)


class Upsample(nn.Module):
    """Repeat pixels to double the sides, and convolve."""

    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        """Return (B, C, 2 h, 2 w) from (B, C, h, w), or as high and wide as `like`."""
        size = [2 * side for side in x.shape[-2:]] if like is None else like.shape[-2:]
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution: a residual block for each of `ins`, and attentions behind the first."""

    def __init__(
        self,
        ins: Sequence[int],
        resnet: Callable[[int], nn.Module],
        attentions: int,
        attention: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.attentions, self.resnets = nn.ModuleList(), nn.ModuleList()
        for i, channels in enumerate(ins):
            self.resnets.append(resnet(channels))
            self.attentions.extend([attention()] if i < attentions else [])
        self.downsamplers, self.upsamplers = nn.ModuleList(), nn.ModuleList()

    def pairs(self) -> Iterator[tuple[nn.Module, nn.Module | None]]:
        """Yield every residual block, and the attention behind it or None."""
        return zip_longest(self.resnets, self.attentions)


class Attention(nn.Module):
    """Attention of tokens to a context, which may be they themselves (Vaswani et al. 2017, section 3.2)."""

    def __init__(
        self, width: int, context: int, heads: int, ops: Ops, bias: bool = False, groups: int = 0
    ) -> None:
        super().__init__()
        self.group_norm = ops.GroupNorm(groups, width, ATTENTION_EPS) if groups else None
        self.heads, self.to_q = heads, ops.Linear(width, width, bias)
        self.to_k, self.to_v = (ops.Linear(context, width, bias) for _ in range(2))
        self.to_out = nn.ModuleList([ops.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Return (B, n, C) from x (B, n, C) and context (B, m, D)."""
        found = self.to_q(x), self.to_k(context), self.to_v(context)  # (B, n or m, C) each
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in found)  # (B, heads, n, d)
        out = F.scaled_dot_product_attention(q, k, v)  # (B, heads, n, d)
        return self.to_out[0](out.transpose(1, 2).flatten(2))  # (B, n, C)

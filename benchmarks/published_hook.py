"""The VAE in pieces as the published code runs it, written anew as a reference to measure against.

Every piece has a margin around it and goes through the whole network on its own; only at a GroupNorm do the
pieces wait for each other. Two things make the result another one than that of the whole picture: variances
are averaged without the spread between the pieces' means (and margins count twice), and the attention of each
piece sees that piece alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS, EPS = 32, 1e-6
MARGIN = {"encode": 32, "decode": 11}  # image pixels, latent pixels
Box = tuple[int, int, int, int]  # top, bottom, left, right


def run_hook(vae: nn.Module, x: Tensor, way: str, tile: int) -> Tensor:
    """Encode an image to moments or decode a latent, (1, C, H, W), in tiles of about `tile` input pixels."""
    net = vae.encoder if way == "encode" else vae.decoder
    margin, factor = MARGIN[way], (1 / 8 if way == "encode" else 8)
    x = x if way == "encode" else vae.post_quant_conv(x)
    height, width = x.shape[-2:]
    if max(height, width) <= tile + 2 * margin:
        out = net(x)
        return vae.quant_conv(out) if way == "encode" else out
    outs = _boxes(height, width, tile, margin)
    ins = [_grown(box, margin, height, width) for box in outs]
    pieces = [x[..., a:b, c:d].clone() for a, b, c, d in ins]
    done = _together([_layers(net, piece, way) for piece in pieces])
    channels = done[0].shape[1]
    size = 1, channels, int(height * factor), int(width * factor)
    result = torch.zeros(size, dtype=x.dtype, device=x.device)
    for piece, box, around in zip(done, outs, ins, strict=True):
        a, b, c, d = (int(v * factor) for v in box)
        top, left = a - int(around[0] * factor), c - int(around[2] * factor)
        result[..., a:b, c:d] = piece[..., top : top + b - a, left : left + d - c]
    return vae.quant_conv(result) if way == "encode" else result


def _boxes(height: int, width: int, tile: int, margin: int) -> list[Box]:
    """Cover the picture with boxes; those at the edge reach over the margin to it."""

    def axis(length: int) -> list[tuple[int, int]]:
        count = max(1, -(-(length - 2 * margin) // tile))
        side = -(-(length - 2 * margin) // count)
        side = next((up for m in (32, 16, 8, 4, 2) if (up := -(-side // m) * m) <= tile), side)
        edges = [margin + i * side for i in range(count + 1)]
        spans = [(a, min(b, length)) for a, b in pairwise(edges)]
        return [(0 if a <= margin else a, length if b >= length - margin else b) for a, b in spans]

    return [(a, b, c, d) for a, b in axis(height) for c, d in axis(width)]


def _grown(box: Box, margin: int, height: int, width: int) -> Box:
    a, b, c, d = box
    return max(a - margin, 0), min(b + margin, height), max(c - margin, 0), min(d + margin, width)


Waiting = Iterator[Tensor]


def _together(walks: list[Waiting]) -> list[Tensor]:
    """Advance every piece to its next GroupNorm, merge the statistics as published, and go on."""
    held = [next(walk) for walk in walks]
    while True:
        moments = []
        for x in held:
            var, mean = torch.var_mean(x.unflatten(1, (GROUPS, -1)).flatten(2), 2, correction=0)
            moments.append((mean, var, x.shape[-1] * x.shape[-2]))
        total = sum(n for *_, n in moments)
        mean = sum(m * (n / total) for m, _, n in moments)
        var = sum(v * (n / total) for _, v, n in moments)
        finished = []
        for i, walk in enumerate(walks):
            try:
                held[i] = walk.send((mean, var))  # type: ignore[attr-defined]
            except StopIteration as stop:
                finished.append(stop.value)
        if finished:
            return finished


def _norm(norm: nn.GroupNorm, x: Tensor) -> Iterator[Tensor]:
    mean, var = yield x
    each = x.shape[1] // GROUPS
    scale = (var + EPS).rsqrt().repeat_interleave(each, 1) * norm.weight
    shift = norm.bias - mean.repeat_interleave(each, 1) * scale
    return torch.addcmul(shift[..., None, None], x, scale[..., None, None])


def _resnet(block: nn.Module, x: Tensor) -> Iterator[Tensor]:
    h = block.conv1(F.silu((yield from _norm(block.norm1, x)), inplace=True))
    h = block.conv2(F.silu((yield from _norm(block.norm2, h)), inplace=True))
    x = x if block.conv_shortcut is None else block.conv_shortcut(x)
    return x.add_(h)


def _middle(block: nn.Module, x: Tensor) -> Iterator[Tensor]:
    x = yield from _resnet(block.resnets[0], x)
    attention = block.attentions[0]
    h = (yield from _norm(attention.group_norm, x)).flatten(2).transpose(1, 2)
    q, k, v = (layer(h)[:, None] for layer in (attention.to_q, attention.to_k, attention.to_v))
    h = attention.to_out[0](F.scaled_dot_product_attention(q, k, v)[:, 0])
    x = x + h.transpose(1, 2).unflatten(2, x.shape[-2:])
    return (yield from _resnet(block.resnets[1], x))


def _layers(net: nn.Module, x: Tensor, way: str) -> Iterator[Tensor]:
    """Run one piece: it is yielded at every GroupNorm, and the merged mean and variance are sent back."""
    x = net.conv_in(x)
    if way == "decode":
        x = yield from _middle(net.mid_block, x)
    for block in net.down_blocks if way == "encode" else net.up_blocks:
        for resnet in block.resnets:
            x = yield from _resnet(resnet, x)
        for sampler in (block.downsamplers if way == "encode" else block.upsamplers) or ():
            x = sampler(x)
    if way == "encode":
        x = yield from _middle(net.mid_block, x)
    return net.conv_out(F.silu((yield from _norm(net.conv_norm_out, x)), inplace=True))

"""Carry signals through a group norm and SiLU as they are: the linear start of the VAE and of the UNet.

A group norm takes a group's mean over the whole picture away and divides by its deviation, so that a tone
would depend on what else is in the picture. So every signal has its negative in the same group, whose mean
is nothing then, and large constants beside it, which make the deviation nearly one of their own. Behind the
norm, silu(x) - silu(-x) = x.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

ANCHOR = 24.0
"""Size of the constants: beside them, signals of unit deviation move the divisor by thousandths."""


def room(pairs: int, groups: int) -> int:
    """Count the channels in which each group of a norm has its share of the pairs and a pair of constants."""
    return 2 * groups * (math.ceil(pairs / groups) + 1)


def paired_rows(count: int, norm: nn.GroupNorm) -> list[int]:
    """Choose channels for `count` signals, then for their negatives, each beside its signal in a group.

    The norm takes the mean of a group away, which is nothing where every signal has its negative with it.
    """
    groups, size = norm.num_groups, norm.num_channels // norm.num_groups
    signals = [k % groups * size + 2 * (k // groups) for k in range(count)]
    return signals + [row + 1 for row in signals]


@torch.no_grad()
def anchor(conv: nn.Conv2d, norm: nn.GroupNorm, rows: list[int], deviation: float) -> Tensor:
    """Put constants into the channels of `conv` that carry nothing; returns what `norm` divides `rows` by."""
    others = [c for c in range(conv.out_channels) if c not in rows]
    conv.weight[others] *= 0.3
    bias = bias_of(conv)
    bias[others[0::2]], bias[others[1::2]] = ANCHOR, -ANCHOR  # balanced: no group has a mean
    power = bias.square()  # (width,)
    power[rows] = deviation**2
    groups = power.view(norm.num_groups, -1).mean(1).sqrt()  # (groups,)
    return groups.repeat_interleave(conv.out_channels // norm.num_groups)[rows]


def bias_of(conv: nn.Conv2d) -> Tensor:
    """Return the bias of a convolution that has one, as all of these networks have."""
    assert conv.bias is not None
    return conv.bias


@torch.no_grad()
def subtract_pairs(conv: nn.Conv2d, rows: list[int], gains: Tensor) -> None:
    """Make `conv` give the signals again: silu(x) - silu(-x) = x, times what the norm divided by."""
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(bias_of(conv))
    count = len(rows) // 2
    for k in range(count):
        conv.weight[k, rows[k], 1, 1] = gains[k]
        conv.weight[k, rows[count + k], 1, 1] = -gains[count + k]

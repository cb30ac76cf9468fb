"""Cut the layers of a network into pieces and put their statistics together: geometry and sums, no networks.

Rows and columns are half-open ranges [start, stop) in the pixels of one layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

LEAST_ROWS = 16  # thinner pieces would read their halo of a row on either side too often


class Window(NamedTuple):
    """What a range of outputs reads along one axis: [start, stop) of the input, and zeros on either side."""

    start: int
    stop: int
    before: int
    after: int


class Reach(NamedTuple):
    """How far one output pixel of a layer sees: its kernel, stride and zeros, and how it enlarges first."""

    kernel: int = 1
    stride: int = 1
    before: int = 0
    after: int = 0
    enlarge: int = 1

    def length(self, length: int) -> int:
        """Return how many outputs `length` inputs have."""
        return (length * self.enlarge + self.before + self.after - self.kernel) // self.stride + 1

    def window(self, start: int, stop: int, length: int) -> Window:
        """Return what the outputs [start, stop) read of an (enlarged) input of `length` pixels."""
        first = start * self.stride - self.before
        last = (stop - 1) * self.stride - self.before + self.kernel
        return Window(max(first, 0), min(last, length), max(-first, 0), max(last - length, 0))


def spans(length: int, most: int) -> list[tuple[int, int]]:
    """Return the fewest ranges of at most `most` pixels that cover `length`, as even as can be."""
    count = -(-length // most)
    return [(i * length // count, (i + 1) * length // count) for i in range(count)]


def cut(height: int, width: int, area: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the ranges of rows and of columns whose products are pieces of at most `area` pixels.

    Pieces are as wide as the layer while they have LEAST_ROWS rows: so they have fewer neighbours.
    """
    least = min(LEAST_ROWS, max(1, int(area**0.5)))
    rows = min(height, max(least, area // width))
    return spans(height, rows), spans(width, max(1, area // rows))


@dataclass(frozen=True)
class Moments:
    """Mean and population variance of every channel over the `count` pixels seen, (B, C) float32 each."""

    count: int
    mean: Tensor
    var: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Return the moments of a piece (B, C, h, w), with two passes over it in float32."""
        var, mean = torch.var_mean(x.float().flatten(2), dim=2, correction=0)  # (B, C) each
        return cls(x.shape[-2] * x.shape[-1], mean, var)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both pieces together (Chan, Golub and LeVeque 1979, equation 2.1).

        The spread between the means belongs to the variance; without it pieces would differ from the whole.
        """
        count = self.count + other.count
        share = other.count / count
        step = other.mean - self.mean  # (B, C)
        mean = self.mean + step * share
        var = self.var + (other.var - self.var) * share + step.square() * (share * (1 - share))
        return Moments(count, mean, var)

    def affine(self, norm: torch.nn.GroupNorm) -> tuple[Tensor, Tensor]:
        """Return the (scale, shift) by which that GroupNorm acts, (B, C, 1, 1) float32 each."""
        mean = self.mean.unflatten(1, (norm.num_groups, -1))  # (B, G, C / G)
        group = mean.mean(2, keepdim=True)  # (B, G, 1)
        inside = self.var.unflatten(1, (norm.num_groups, -1)).mean(2, keepdim=True)
        var = inside + (mean - group).square().mean(2, keepdim=True)  # (B, G, 1)
        scale = (var + norm.eps).rsqrt().expand_as(mean).flatten(1)  # (B, C)
        centre = group.expand_as(mean).flatten(1)
        if norm.affine:
            scale = scale * norm.weight.to(
                scale
            )  # which may lie elsewhere, as of a model that is not whole here
            return scale[..., None, None], (norm.bias.to(scale) - centre * scale)[..., None, None]
        return scale[..., None, None], (-centre * scale)[..., None, None]


def normalize(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return scale * x + shift (B, C, h, w), computed in float32 and rounded to x's dtype."""
    return torch.addcmul(shift, x.float(), scale).to(x.dtype)

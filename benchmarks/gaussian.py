"""The published blending window of tiles, written down from its description."""

from __future__ import annotations

import torch
from torch import Tensor

VARIANCE = 0.01  # in tile sides squared


def gaussian_window(height: int, width: int, *, symmetric: bool = False) -> Tensor:
    """Return the weights of one tile, (height, width) float64, all positive.

    As published the vertical centre is at height / 2, half a pixel too low; `symmetric` puts it at the true
    one, (height - 1) / 2, where the horizontal centre is anyway.
    """
    row = (height - 1) / 2 if symmetric else height / 2
    return _gaussian(height, row)[:, None] * _gaussian(width, (width - 1) / 2)[None, :]


def _gaussian(n: int, centre: float) -> Tensor:
    """Return a Gaussian density over `n` pixels whose unit of length is the tile side, (n,) float64."""
    i = torch.arange(n, dtype=torch.float64)
    return torch.exp(-((i - centre) ** 2) / n**2 / (2 * VARIANCE)) / (2 * torch.pi * VARIANCE) ** 0.5

"""The discriminator of the GAN row of Table 3: small, convolutional, from scratch.

The paper took that of Parmar et al. (2024), a frozen CLIP with trained heads; this one needs no download, and
is weaker: what it shows is not the paper's row.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

WIDTHS = (3, 32, 64, 128)


class PatchDiscriminator(nn.Module):
    """Judges patches: (B, 3, H, W) in [-1, 1] -> verdicts (B, 1, h, w), above 0 for real."""

    def __init__(self, generator: torch.Generator) -> None:
        """Start from weights that `generator` (CPU) draws."""
        super().__init__()
        layers: list[nn.Module] = []
        for number, (inside, outside) in enumerate(pairwise(WIDTHS)):
            layers.append(nn.Conv2d(inside, outside, 4, stride=2, padding=1))
            layers += [nn.GroupNorm(8, outside)] if number else []
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Conv2d(WIDTHS[-1], 1, 3, padding=1))
        for module in self.layers:
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                weight = torch.empty(module.weight.shape)
                module.weight.data.copy_(weight.normal_(0, math.sqrt(2 / fan_in), generator=generator))
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, image: Tensor) -> Tensor:
        """Judge pictures (B, 3, H, W) in [-1, 1], in float32."""
        return self.layers(image.float())

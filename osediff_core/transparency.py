"""What is transparent does not count. Images are (B, C, H, W), alpha (B, 1, H, W), uint8 or in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .color import from_levels

# Alpha below half a level of 255 is 0 in every 8-bit file.
HIDDEN_BELOW = 0.5 / 255
# Keeps 0 / 0 at 0; far below the least alpha divided by the pixels of any picture.
TINY = 1e-30


def visible(alpha: Tensor) -> Tensor:
    """Return where a picture can be seen at all, (B, 1, H, W) bool."""
    return from_levels(alpha) >= HIDDEN_BELOW


def fill_hidden(image: Tensor, alpha: Tensor) -> Tensor:
    """Return `image` with the colours around continued to where it cannot be seen, in its dtype.

    Visible pixels stay bit for bit, and nothing of the hidden ones is used, not even NaN: resizing, a network
    and means of colours may look there. Black where nothing is visible.
    """
    seen = visible(alpha)  # (B, 1, H, W)
    if bool(seen.all()):
        return image
    weight = from_levels(alpha).float().where(seen, 0.0)  # (B, 1, H, W)
    out = torch.empty_like(image)
    for i in range(image.shape[1]):  # one by one: in floats, a picture takes several times its memory
        channel = image[:, i : i + 1]  # (B, 1, H, W)
        filled = _spread(channel.float().where(seen, 0.0) * weight, weight)
        filled = filled.round_() if image.dtype == torch.uint8 else filled
        out[:, i : i + 1] = torch.where(seen, channel, filled.to(image.dtype))
    return out


def _spread(product: Tensor, weight: Tensor) -> Tensor:
    """Return colours for all pixels from colours times weight, and weight, (B, 1, H, W) each.

    Where too little is known, the picture of half the size says what the surroundings have in the mean. One
    known pixel of four is enough.
    """
    own = product / weight.clamp(min=TINY)  # (B, 1, H, W)
    height, width = weight.shape[-2:]
    if height == width == 1:
        return own
    halves = (F.avg_pool2d(x, 2, ceil_mode=True) for x in (product, weight))
    around = F.interpolate(_spread(*halves), scale_factor=2.0, mode="bilinear")[..., :height, :width]
    return torch.lerp(around, own, (4 * weight).clamp(max=1))


def color_weight(alpha: Tensor) -> Tensor | None:
    """Return how much each pixel counts as a colour, (B, 1, H, W) float in [0, 1].

    None, where all count alike, is the picture without alpha.
    """
    weight = from_levels(alpha)
    return None if bool((weight == weight[..., :1, :1]).all()) else weight

"""The perceptual term: LPIPS as in the paper, or a gradient loss that needs nothing downloaded."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from osediff_core.errors import OSEDiffError

from .losses import PerceptualLoss

PerceptualName = Literal["lpips", "gradient", "none"]

REMEDY = 'set `loss.perceptual = "gradient"` (or "none") to train without LPIPS'
GRADIENT_SCALES = 3


def build_perceptual(name: PerceptualName, device: torch.device) -> PerceptualLoss | None:
    """Make the perceptual term of that name; None for "none".

    Raises OSEDiffError where LPIPS or the VGG weights that it downloads cannot be had.
    """
    if name == "none":
        return None
    if name == "gradient":
        return gradient_loss
    return _lpips(device)


def gradient_loss(sr: Tensor, hq: Tensor) -> Tensor:
    """Compare the gradients of two pictures at full, half and quarter size.

    Both (B, 3, H, W) in [-1, 1]. Returns the mean absolute difference of horizontal and vertical
    differences, summed over both directions and averaged over the scales, per sample (B,): it rewards
    edges of the right strength in the right place, and does not see a constant shift.
    """
    total = sr.new_zeros(len(sr), dtype=torch.float32)  # (B,)
    difference = sr.float() - hq.float()  # (B, 3, H, W); gradients are linear, so they act on the difference
    scales = 0
    for _ in range(GRADIENT_SCALES):
        if min(difference.shape[-2:]) < 2:
            break
        dx = difference[..., :, 1:] - difference[..., :, :-1]  # (B, 3, H, W-1)
        dy = difference[..., 1:, :] - difference[..., :-1, :]  # (B, 3, H-1, W)
        total = total + dx.abs().mean(dim=(1, 2, 3)) + dy.abs().mean(dim=(1, 2, 3))
        difference = F.avg_pool2d(difference, 2)  # (B, 3, H/2, W/2)
        scales += 1
    return total / max(scales, 1)


def _lpips(device: torch.device) -> PerceptualLoss:
    """Load LPIPS on VGG16 (downloads torchvision's VGG weights on first use), frozen, on the device."""
    try:
        import lpips
    except ImportError as error:
        raise OSEDiffError(
            f"The LPIPS term needs the packages lpips and torchvision ({error}): install them, or {REMEDY}."
        ) from error
    try:
        network = lpips.LPIPS(net="vgg", verbose=False)
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a torn file is a RuntimeError
        raise OSEDiffError(
            f"The VGG weights of LPIPS could not be downloaded or read ({error}): connect once, or {REMEDY}."
        ) from error
    network.requires_grad_(False).eval().to(device)

    def loss(sr: Tensor, hq: Tensor) -> Tensor:
        return network(sr.float(), hq.float()).flatten()  # (B,)

    return loss

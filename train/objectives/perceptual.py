"""The perceptual term: LPIPS as in the paper, or a gradient loss that needs nothing downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from osediff_core.errors import OSEDiffError

from ..evaluation.fidelity import SSIM_C1, SSIM_C2, SSIM_SIGMA, SSIM_WINDOW, gaussian_kernel
from .objective import Context, Objective, PerceptualLoss

PerceptualName = Literal["lpips", "gradient", "structure", "none"]

REMEDY = 'set `loss.perceptual = "gradient"` (or "none") to train without LPIPS'
GRADIENT_SCALES = 3
STRUCTURE_WEIGHT = 0.3
"""Of 1 - SSIM beside the gradient term, which is about as large then."""


@dataclass
class PerceptualSettings:
    """Of the section `loss`."""

    lambda_perceptual: float = 2.0
    """Weight of the perceptual term (lambda_1 of the paper)."""
    perceptual: PerceptualName = "lpips"
    """Perceptual term: "lpips" (VGG, as in the paper), or, with nothing to download, "gradient",
    "structure" (gradients and SSIM) or "none"."""


def perceptual(settings: PerceptualSettings, context: Context) -> Objective | None:
    """Make the objective of the measure in `context`, if there is one."""
    measure = context.perceptual
    if measure is None:
        return None
    return Objective(settings.lambda_perceptual, lambda made: (measure(made.sr, made.hq).mean(), {}))


def build_perceptual(name: PerceptualName, device: torch.device) -> PerceptualLoss | None:
    """Make the perceptual term of that name; None for "none".

    Raises OSEDiffError where LPIPS or the VGG weights that it downloads cannot be had.
    """
    if name == "none":
        return None
    if name == "gradient":
        return gradient_loss
    if name == "structure":
        return structure_loss
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


def structure_loss(sr: Tensor, hq: Tensor) -> Tensor:
    """Compare gradients (`gradient_loss`) and, more gently, structural similarity.

    Both (B, 3, H, W) in [-1, 1]. Returns gradient_loss + STRUCTURE_WEIGHT (1 - SSIM) per sample (B,). SSIM
    (Wang et al. 2004) sees a faint texture as well as a strong edge, which absolute differences pass over.
    """
    return gradient_loss(sr, hq) + STRUCTURE_WEIGHT * (1 - ssim((sr.float() + 1) / 2, (hq.float() + 1) / 2))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM of two (B, 3, H, W) in [0, 1], mean of their channels, (B,); differentiable.

    The window is `metrics.ssim_y`'s, without its rounding and clamping; valid positions only, so sides of at
    least 11 pixels.
    """
    rows, columns = (window_matrix(side).to(x) for side in x.shape[-2:])
    moments = torch.stack([x, y, x * x, y * y, x * y])  # (5, B, 3, H, W)
    mean_x, mean_y, xx, yy, xy = rows @ moments @ columns.T  # (B, 3, h, w) each
    c1, c2 = SSIM_C1 / 255**2, SSIM_C2 / 255**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    variances = xx - mean_x.square() + yy - mean_y.square()
    structure = (2 * (xy - mean_x * mean_y) + c2) / (variances + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def window_matrix(side: int) -> Tensor:
    """SSIM's window along one axis as a band matrix (side - 10, side): far quicker than to convolve."""
    window = gaussian_kernel(SSIM_WINDOW, SSIM_SIGMA)[0, 0].sum(0)  # (11,)
    starts = torch.arange(side - SSIM_WINDOW + 1)[:, None]  # (side - 10, 1)
    columns = starts + torch.arange(SSIM_WINDOW)
    return torch.zeros(len(starts), side, dtype=window.dtype).scatter_(
        1, columns, window.expand(len(starts), -1)
    )


def _lpips(device: torch.device) -> PerceptualLoss:
    """Load LPIPS on VGG16 (downloads torchvision's VGG weights on first use), frozen, on the device."""
    try:
        import lpips  # pyright: ignore[reportMissingImports]
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

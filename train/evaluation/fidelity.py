"""Full-reference measures on luma as the published evaluation computes them, of (B, 3, H, W) in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (65.481, 128.553, 24.966)
"""BT.601 weights of R, G, B for Y in [16, 235]."""
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
"""Gaussian window of SSIM (Wang et al. 2004)."""
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
"""Stabilisers of SSIM for a data range of 255."""


def luma(rgb: Tensor) -> Tensor:
    """Y of BT.601, (B, 1, H, W) in [16/255, 235/255]."""
    weights = rgb.new_tensor(LUMA).view(1, 3, 1, 1)
    return ((rgb * weights).sum(1, keepdim=True) + 16) / 255


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal to noise ratio of any channels, dB, one number per picture (B,); range 1, eps 1e-8."""
    mse = (a.double() - b.double()).square().mean((1, 2, 3))
    return -10 * torch.log10(mse + 1e-8)


def psnr_y(sr: Tensor, hq: Tensor) -> Tensor:
    """PSNR on luma, dB (B,): not rounded, not cropped."""
    return psnr(luma(sr.double()), luma(hq.double()))


def gaussian_kernel(size: int, sigma: float) -> Tensor:
    """Return a normalised Gaussian (1, 1, size, size), float64."""
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    g = torch.exp(-x.square() / (2 * sigma**2))
    kernel = torch.outer(g, g)
    return (kernel / kernel.sum())[None, None]


def ssim_y(sr: Tensor, hq: Tensor) -> Tensor:
    """Structural similarity on luma rounded to 8 bits, one number per picture (B,).

    Window 11, sigma 1.5, valid positions only, contrast-structure term clamped at 0; float64.
    """
    x, y = ((luma(image.double()) * 255).round() for image in (sr, hq))
    kernel = gaussian_kernel(SSIM_WINDOW, SSIM_SIGMA)
    mean_x, mean_y = F.conv2d(x, kernel), F.conv2d(y, kernel)
    var_x = F.conv2d(x * x, kernel) - mean_x.square()
    var_y = F.conv2d(y * y, kernel) - mean_y.square()
    cov = F.conv2d(x * y, kernel) - mean_x * mean_y
    structure = ((2 * cov + SSIM_C2) / (var_x + var_y + SSIM_C2)).clamp(min=0)
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x.square() + mean_y.square() + SSIM_C1)
    return (luminance * structure).mean((1, 2, 3))


def sharpness(image: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute vertical difference of luma over the reference's, one number per picture (B,).

    1 is as sharp as the reference. Noise counts as sharpness too, so it is read beside PSNR.
    """
    steps = [luma(x.double()).diff(dim=2).abs().mean((1, 2, 3)) for x in (image, reference)]
    return steps[0] / steps[1]


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur (B, C, H, W) by a Gaussian of deviation `sigma` pixels, edges replicated."""
    radius = max(1, round(3 * sigma))
    kernel = gaussian_kernel(2 * radius + 1, sigma).to(image).expand(image.shape[1], 1, -1, -1)
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    return F.conv2d(padded, kernel, groups=image.shape[1])

"""Unsharp masking of the clean picture, with Real-ESRGAN's numbers."""

from __future__ import annotations

from torch import Tensor

from .filters import filter2d
from .kernels import gaussian

SIZE, SIGMA = 51, 8.0
"""The blur's kernel: a side of 51 pixels, and the deviation that OpenCV derives from it."""
WEIGHT, THRESHOLD = 0.5, 10 / 255
"""Share of the detail that is added, and the smallest detail that counts, in [0, 1]."""


def sharpen(image: Tensor) -> Tensor:
    """Sharpen (3, H, W) in [0, 1] where its detail exceeds the threshold, softly at the borders of that."""
    kernel = gaussian(SIZE, SIGMA, SIGMA)
    detail = image - filter2d(image, kernel)  # (3, H, W)
    mask = filter2d((detail.abs() > THRESHOLD).to(image), kernel)  # (3, H, W) in [0, 1]
    return image + mask * ((image + WEIGHT * detail).clamp(0, 1) - image)

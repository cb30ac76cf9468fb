"""What the published code does in place of JPEG: the codec's arithmetic in float, without its integer steps.

Differs from libjpeg in four ways: the luma table is transposed, chroma is enlarged by repetition (libjpeg
interpolates), quantisation tables are real numbers, and nothing is rounded to 8 bits. Here to measure that
difference, and to take it out of the comparison of everything else.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# ISO/IEC 10918-1, tables K.1 and K.2.
LUMA = torch.tensor([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
]).float()  # fmt: skip
CHROMA = torch.full((8, 8), 99.0)
CHROMA[:4, :4] = torch.tensor(
    [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
).float()
TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
TO_RGB = torch.tensor([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])


def emulated_jpeg(image: Tensor, quality: float) -> Tensor:
    """Compress and decompress (3, H, W) in [0, 1]."""
    height, width = image.shape[1:]
    padded = F.pad(image, (0, -width % 16, 0, -height % 16)) * 255
    ycc = torch.einsum("ij,jhw->ihw", TO_YCC, padded)  # chroma around 0: its offset of 128 cancels
    ycc[0] -= 128
    factor = (5000 / quality if quality < 50 else 200 - 2 * quality) / 100
    luma = _quantised(ycc[:1], LUMA.T * factor)
    chroma = _quantised(F.avg_pool2d(ycc[1:], 2), CHROMA * factor)
    chroma = chroma.repeat_interleave(2, 1).repeat_interleave(2, 2)
    rgb = torch.einsum("ij,jhw->ihw", TO_RGB, torch.cat([luma + 128, chroma]))
    return rgb[:, :height, :width].clamp(0, 255) / 255


def _quantised(planes: Tensor, table: Tensor) -> Tensor:
    """Round the 8 x 8 cosine coefficients of (C, H, W) to multiples of the table."""
    x = torch.arange(8).float()
    basis = torch.cos((2 * x + 1) * x.view(-1, 1) * math.pi / 16) / 2  # (frequency, place)
    basis[0] /= math.sqrt(2)
    blocks = planes.unfold(1, 8, 8).unfold(2, 8, 8)  # (C, H/8, W/8, 8, 8)
    coefficients = torch.round(basis @ blocks @ basis.T / table) * table
    blocks = basis.T @ coefficients @ basis
    return blocks.transpose(2, 3).reshape(planes.shape)

"""JPEG compression by the real library."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from osediff_core.color import to_levels


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Compress and decompress (3, H, W) in [0, 1] through Pillow's libjpeg, chroma subsampled 4:2:0.

    quality is libjpeg's, 1 to 100. The picture is rounded to 8 bits on the way in; so is what comes out.
    """
    pixels = to_levels(image).permute(1, 2, 0).contiguous()
    stream = io.BytesIO()
    Image.fromarray(pixels.cpu().numpy()).save(stream, format="JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(stream) as decoded:
        array = np.array(decoded)  # (H, W, 3)
    return torch.from_numpy(array).permute(2, 0, 1).to(image).div_(255)

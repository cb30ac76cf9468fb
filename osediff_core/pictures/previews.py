"""Pictures small enough to be carried inside a page."""

from __future__ import annotations

import io

from PIL import Image
from torch import Tensor

from ..resize import resize_bicubic


def encode_webp(image: Tensor, quality: int) -> bytes:
    """Return a picture, uint8 (1, 3 or 1, H, W), as lossy WebP; quality is 1 to 100."""
    pixels = image[0].permute(1, 2, 0).squeeze(-1).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()


def shrink(image: Tensor, side: int) -> Tensor:
    """Return a picture, uint8 (1, 3, H, W), with its longer side at most `side`."""
    longer = max(image.shape[-2:])
    if longer <= side:
        return image
    height, width = (max(1, round(one * side / longer)) for one in image.shape[-2:])
    return resize_bicubic(image, (height, width))

"""The border between ComfyUI's IMAGE (B, H, W, C) and the core's (B, 3, H, W)."""

from __future__ import annotations

import torch
from comfy import model_management
from torch import Tensor

from ..osediff_core.color import from_levels
from ..osediff_core.errors import OSEDiffError
from ..osediff_core.transparency import fill_hidden, visible

# float32 keeps k / 255 * 255 within 2e-5 of k; a value that was computed is not that near to all of them.
EIGHT_BIT_TOLERANCE = 1e-3


def split_image(image: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the colours (B, 3, H, W) and, where there is a fourth channel, alpha (B, 1, H, W).

    Float in [0, 1], or uint8 where the image holds exactly the values of 8-bit pixels: LoadImage divides
    them by 255, and as 8-bit values they are resized to exactly what the command line gives. Grey images
    become three equal channels. Where alpha is 0, the colours are continued from what is visible. Raises
    OSEDiffError for what is not an image.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise OSEDiffError(
            f"expected an IMAGE (batch, height, width, 1, 3 or 4 channels), got {tuple(image.shape)}: "
            "load it with Load Image, or convert it to RGB"
        )
    planes = image.movedim(-1, 1).float()  # (B, C, H, W)
    if planes.shape[1] == 4:
        planes = planes.where(visible(planes[:, 3:]), 0)  # what is hidden has no say in whether it is 8-bit
    planes = _eight_bit(planes)
    colours = planes[:, :3].expand(-1, 3, -1, -1).contiguous()  # (B, 3, H, W)
    if planes.shape[1] < 4:
        return colours, None
    alpha = planes[:, 3:]
    return fill_hidden(colours, alpha), alpha


def _eight_bit(image: Tensor) -> Tensor:
    levels = image * 255
    nearest = levels.round()
    # written so that NaN, which no comparison holds for, stays float and is refused by the core
    exact = ((levels - nearest).abs() <= EIGHT_BIT_TOLERANCE) & (nearest >= 0) & (nearest <= 255)
    return nearest.to(torch.uint8) if bool(exact.all()) else image


def join_image(colours: Tensor, alpha: Tensor | None = None) -> Tensor:
    """Return an IMAGE (B, H, W, 3 or 4) on ComfyUI's device and in its dtype for results.

    colours: (B, 3, H, W) in [0, 1]; alpha: (B, 1, H, W), uint8 or in [0, 1].
    """
    if alpha is not None:
        colours = torch.cat([colours, from_levels(alpha).to(colours)], dim=1)  # (B, 4, H, W)
    # ComfyUI before --fp16-intermediates has no such function: its images are float32
    dtype = getattr(model_management, "intermediate_dtype", lambda: torch.float32)()
    return colours.movedim(1, -1).to(model_management.intermediate_device(), dtype)  # (B, H, W, C)

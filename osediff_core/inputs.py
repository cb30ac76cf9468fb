"""What images and prompts must be, said before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .choices import MOST_DETAIL
from .errors import OSEDiffError


def check_prompts(prompts: str | Sequence[str], count: int | None = None) -> list[str]:
    """Return prompts as a list; OSEDiffError unless they are one or more strings of whole letters.

    count: of images, for which there must be one text, or a list with one for each.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if count is not None and not isinstance(prompts, str) and len(texts) != count:
        raise OSEDiffError(
            f"got {len(texts)} prompts for {count} images: give one text, or one for each image"
        )
    if not texts or not all(isinstance(text, str) for text in texts):
        raise OSEDiffError(f"prompts are one or more strings, got {prompts!r}")
    if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
        raise OSEDiffError("a prompt holds halves of letters, as of bytes that are not UTF-8: write it anew")
    return texts


def check_image(lq: Tensor) -> None:
    """Raise OSEDiffError unless `lq` is (B, 3, H, W), not empty, and uint8 or finite floats in [0, 1]."""
    if not isinstance(lq, Tensor):
        raise OSEDiffError(
            f"an image batch is a torch tensor, got {type(lq).__name__}: read files with read_image"
        )
    if lq.ndim != 4 or lq.shape[1] != 3 or 0 in lq.shape:
        raise OSEDiffError(f"an image batch is (B, 3, H, W) and not empty, got {tuple(lq.shape)}")
    if lq.dtype == torch.uint8:
        return
    if not lq.is_floating_point():
        raise OSEDiffError(f"an image is uint8, or float in [0, 1], got {lq.dtype}: convert it first")
    if ((lq >= -0.5) & (lq <= 1.5)).all():  # the one question to a device; neither holds for NaN
        return
    if not lq.isfinite().all():
        raise OSEDiffError("the image has values that are not numbers (NaN or infinite): check what made it")
    low, high = lq.min().item(), lq.max().item()
    raise OSEDiffError(f"a float image is in [0, 1], got values from {low:g} to {high:g}: rescale it first")


def check_alpha(alpha: Tensor, lq: Tensor) -> None:
    """Raise OSEDiffError unless `alpha` is (B, 1, H, W) for images `lq`, uint8 or finite floats in [0, 1]."""
    shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in (alpha, lq)]
    if len(shapes[1]) != 4 or shapes[0] != (shapes[1][0], 1, *shapes[1][2:]):
        raise OSEDiffError(
            f"the alpha of images (B, 3, H, W) is (B, 1, H, W), got {shapes[0]} for {shapes[1]}: give each "
            "image its own"
        )
    check_image(alpha.expand(-1, 3, -1, -1))


def check_embeds(embeds: Tensor, count: int) -> None:
    """Raise OSEDiffError unless there is a prompt for all images, or one for each."""
    if len(embeds) not in (1, count):
        raise OSEDiffError(f"got {len(embeds)} prompts for {count} images: give one, or one for each")


def check_detail(detail: float) -> None:
    """Raise OSEDiffError unless `detail` is a number from 0 to MOST_DETAIL."""
    if not 0 <= detail <= MOST_DETAIL:
        raise OSEDiffError(f"the detail is from 0 to {MOST_DETAIL:g}, 1 is as trained, got {detail}")

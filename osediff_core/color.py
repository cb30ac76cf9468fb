"""Give a restored image the colours of its reference. Images are (B, 3, H, W) in [0, 1], float32 inside."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .choices import COLORS
from .errors import OSEDiffError

# What resizing may make of equal channels in float32; a hundredth of a level of 255.
LAST_BITS = 4e-5


def check_method(method: str) -> None:
    """Raise OSEDiffError unless there is such a method: for callers with work to do before they match."""
    if method not in COLORS:
        raise OSEDiffError(f"the colour method is one of {', '.join(COLORS)}, got {method!r}")


def match_color(sr: Tensor, reference: Tensor, method: str = "adain", weight: Tensor | None = None) -> Tensor:
    """Return `sr` with the colours of `reference`, (B, C, H, W) float32, clamped to [0, 1].

    method: "adain" matches mean and deviation of each channel (the published default), "wavelet" takes the
    low frequencies from the reference, "none" only clamps. weight: (B, 1, H, W) float in [0, 1], how much
    each pixel counts, not 0 everywhere; None where all count alike. Raises OSEDiffError for another method
    or if the sizes differ.
    """
    check_method(method)
    if method == "none":
        return sr.float().clamp(0, 1)
    if sr.shape != reference.shape:
        raise OSEDiffError(
            f"colours are matched between images of one size, got {tuple(sr.shape)} and reference "
            f"{tuple(reference.shape)}: resize the reference to the output"
        )
    match = adain if method == "adain" else wavelet
    return match(sr.float(), reference.float(), weight).clamp(0, 1)


def adain(sr: Tensor, reference: Tensor, weight: Tensor | None = None) -> Tensor:
    """Give each channel of `sr` the mean and standard deviation of the reference's; not clamped."""
    mean, std = _mean_std(sr, weight)  # (B, 3, 1, 1)
    to_mean, to_std = _mean_std(reference, weight)  # (B, 3, 1, 1)
    return (sr - mean) / std * to_std + to_mean  # (B, 3, H, W)


def _mean_std(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return mean and sqrt(unbiased variance + 1e-5) per image and channel, (B, 3, 1, 1).

    One pixel has no unbiased variance: it counts as 0, so that its colour is only shifted. Weights are no
    number of pixels: with them the variance is the plain mean of squares.
    """
    if weight is not None:
        total = weight.sum((2, 3), keepdim=True)  # (B, 1, 1, 1)
        mean = (x * weight).sum((2, 3), keepdim=True) / total
        var = ((x - mean).square_() * weight).sum((2, 3), keepdim=True) / total
        return mean, (var + 1e-5).sqrt()
    several = x.shape[-2] * x.shape[-1] > 1
    var = x.var(dim=(2, 3), keepdim=True, unbiased=several)
    return x.mean(dim=(2, 3), keepdim=True), (var + 1e-5).sqrt()


def wavelet(sr: Tensor, reference: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the high frequencies of `sr` on the low frequencies of the reference; not clamped.

    With weights, low frequencies are weighted means; where nothing around counts, `sr` stays.
    """
    if weight is not None:
        nearby = low_frequencies(weight).clamp(min=1e-6)  # (B, 1, H, W)
        return sr + low_frequencies((reference - sr) * weight) / nearby
    return sr - low_frequencies(sr) + low_frequencies(reference)  # (B, 3, H, W)


def low_frequencies(x: Tensor, levels: int = 5) -> Tensor:
    """Return what is left of `x` after `levels` binomial 3x3 blurs, dilated by 1, 2, 4, ... (a trous)."""
    row = torch.full((3,), 0.25, device=x.device)
    row[1] = 0.5  # filled in there: numbers that travel to a card wait for what it is doing
    kernel = (row[:, None] * row[None, :]).expand(x.shape[1], 1, 3, 3)  # (C, 1, 3, 3)
    for level in range(levels):
        r = 2**level
        padded = F.pad(x, (r, r, r, r), mode="replicate")  # (B, 3, H + 2r, W + 2r)
        x = F.conv2d(padded, kernel, groups=x.shape[1], dilation=r)  # (B, 3, H, W)
    return x


def to_levels(image: Tensor) -> Tensor:
    """Return a float image in [0, 1] as uint8, rounded: truncating, as published, darkens by half a level."""
    return image.clamp(0, 1).mul(255).round().to(torch.uint8)


def from_levels(image: Tensor) -> Tensor:
    """Return a uint8 image as float32 in [0, 1]; floats as they are."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


def is_grey(image: Tensor) -> Tensor:
    """Whether the channels of each image (B, 3, H, W), uint8 or in [0, 1], are equal up to the last bits.

    Returns (B, 1, 1, 1) bool.
    """
    spread = image.amax(1, keepdim=True) - image.amin(1, keepdim=True)  # (B, 1, H, W)
    return (spread <= LAST_BITS).all(3, keepdim=True).all(2, keepdim=True)

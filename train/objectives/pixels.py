"""Losses of pictures, pixel by pixel: the data term, and tones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .objective import Context, Objective

DataTerm = Literal["mse", "log_mse"]

SMALL_ERROR = 4e-4
"""Mean squared error of pictures in [-1, 1] at 40 dB: below it, log_mse has little left to gain."""

TONE_CELL = 16
"""Side, in pixels, of the squares whose averages `tone_loss` compares, past the noise of single pixels."""


@dataclass
class PixelSettings:
    """Of the section `loss`."""

    lambda_data: float = 1.0
    """Weight of the data term."""
    data: DataTerm = "mse"
    """The data term: "mse", or "log_mse", which weighs every picture by its own error, as PSNR does."""
    lambda_tone: float = 0.0
    """Weight of the averages of small squares, against tints; 10 cost the demo some SSIM (CHANGELOG.md)."""


def data(settings: PixelSettings, context: Context) -> Objective:
    """Make the data term."""
    return Objective(settings.lambda_data, lambda made: (data_loss(made.sr, made.hq, settings.data), {}))


def tone(settings: PixelSettings, context: Context) -> Objective:
    """Make the term of tones."""
    return Objective(settings.lambda_tone, lambda made: (tone_loss(made.sr, made.hq), {}))


def data_loss(sr: Tensor, hq: Tensor, term: DataTerm = "mse") -> Tensor:
    """Compute the data term of pictures (B, 3, H, W) in [-1, 1], a scalar.

    "mse" is the paper's (eq. 5, first term). "log_mse" is the mean of log(1 + mse / SMALL_ERROR) over the
    pictures, which is proportional to PSNR: a smooth picture, whose error is small, counts like any other.
    """
    errors = (sr.float() - hq.float()).square().mean(dim=(1, 2, 3))  # (B,)
    return errors.mean() if term == "mse" else torch.log1p(errors / SMALL_ERROR).mean()


def tone_loss(sr: Tensor, hq: Tensor) -> Tensor:
    """Compute the mean absolute difference of local averages of pictures (B, 3, H, W) in [-1, 1], a scalar.

    The averages are over squares of TONE_CELL pixels, smaller ones at the right and lower border. They keep
    a faint tint, which is a small error beside noise and blur, and what else is as large as a square.
    """
    means = F.avg_pool2d(sr.float() - hq.float(), TONE_CELL, ceil_mode=True)  # averages are linear
    return means.abs().mean()

"""Labyrinths: pictures made by a program, most of whose detail is gone when they are shrunk four times."""

from __future__ import annotations

import torch
from torch import Tensor

from osediff_core.resize import resize_bicubic

from ..degradation.pipeline import round_to_8bit
from ..randomness.streams import stream

SIDE = 16
"""Of a sample, pixels."""
SCALE = 4
PERIOD = 7.0
"""From stripe to stripe, pixels. A picture shrunk four times can hold periods from 8 pixels on."""
SPREAD = 0.25
"""Deviation of the spatial frequency, as a share of the mean one."""
HARDNESS = 3.0
"""Of the step from dark to bright; a large one is black and white."""
SHEET = 192
"""Side of the periodic pictures that samples are cut out of, without overlap."""


def labyrinth(generator: torch.Generator) -> Tensor:
    """Make a picture (SHEET, SHEET) in [0, 1] of winding stripes that run in all directions alike."""
    noise = torch.fft.fft2(torch.randn(SHEET, SHEET, generator=generator))  # (SHEET, SHEET)
    along = torch.fft.fftfreq(SHEET)
    frequency = (along[:, None].square() + along.square()).sqrt()  # (SHEET, SHEET), cycles a pixel
    ring = torch.exp(-0.5 * ((frequency * PERIOD - 1) / SPREAD).square())
    smooth = torch.fft.ifft2(noise * ring).real
    return 0.5 + 0.4 * torch.tanh(HARDNESS * smooth / smooth.std())


def samples(count: int, seed: int) -> Tensor:
    """Cut `count` grey samples (count, 3, SIDE, SIDE) in [0, 1]; the same for the same seed."""
    each = (SHEET // SIDE) ** 2
    sheets = [labyrinth(stream(seed, "labyrinth", number)) for number in range(-(-count // each))]
    cut = [sheet.unfold(0, SIDE, SIDE).unfold(1, SIDE, SIDE).reshape(each, SIDE, SIDE) for sheet in sheets]
    return round_to_8bit(torch.cat(cut)[:count]).unsqueeze(1).repeat(1, 3, 1, 1)


def degraded(hq: Tensor) -> Tensor:
    """Shrink samples (B, 3, SIDE, SIDE) in [0, 1] four times, and enlarge them again: their LQ."""
    small = round_to_8bit(resize_bicubic(hq, (SIDE // SCALE, SIDE // SCALE)))  # (B, 3, 4, 4)
    return round_to_8bit(resize_bicubic(small, (SIDE, SIDE)))

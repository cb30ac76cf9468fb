"""What PSNR and its kin do not tell apart: tile borders, drifting colours, shifts, noise left on flat fields.

Pictures are (1, 3, H, W) in [0, 1]; a measure that a picture has no value for gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from osediff_core.pipeline.plan import AUTO_REDUCTION, tile_and_overlap
from osediff_core.pipeline.unet_tiles import Box, grid

from .fidelity import luma

OVERLAP = 32
"""Latent pixels that tiles of the default size overlap by."""
MARGIN = 16
"""Pixels at the picture's own edge, where convolutions see zeros."""
SQUARE = 32
"""Side of the squares whose averages are compared, pixels."""
LONG_WAVES = 1 / 8
"""Cycles a pixel that a shift is read from: what an enlargement by four still has."""
NEAR, STEP, ROUNDS = 1.0, 0.01, 3
"""How far around the highest whole pixel a peak is looked for, how finely, pixels, and how often."""
BLOCK, FLAT, FEWEST = 16, 2.0, 4
"""A flat field: side in pixels, the original's deviation in levels at most, and how many a value is of."""


def tile_borders(sr: Tensor) -> Tensor:
    """Energy of second differences on the borders of the default tiles over that elsewhere; 1 is no seam.

    A picture that fits one tile has none.
    """
    side, overlap = tile_and_overlap("auto", OVERLAP, AUTO_REDUCTION)
    height, width = (-(-length // AUTO_REDUCTION) for length in sr.shape[-2:])
    boxes = grid(height, width, side, overlap)
    return torch.tensor(seam_ratio(sr, boxes, AUTO_REDUCTION) if len(boxes) > 1 else math.nan)


def borders(boxes: list[Box], axis: int, reduction: int) -> list[int]:
    """Return where tiles begin, end and weigh as much as their neighbours along an axis, in image pixels.

    axis: 0 down, 1 across. The picture's own edges are left out.
    """
    side, starts = boxes[0][axis + 2], sorted({box[axis] for box in boxes})
    ends = {edge * reduction for start in starts for edge in (start, start + side)}
    meet = {(a + b + side) * reduction // 2 for a, b in pairwise(starts)}
    return sorted((ends | meet) - {starts[0] * reduction, (starts[-1] + side) * reduction})


def seam_ratio(image: Tensor, boxes: list[Box], reduction: int) -> float:
    """Return the mean square of second differences on the borders over that elsewhere; image (1, 3, H, W).

    Second differences: a slope, which is no seam, has none. The rows and columns next to a border, where its
    own second differences reach, count as the border. The picture's own edge is left out.
    """
    at_borders, elsewhere = [], []
    for axis in (0, 1):
        lines = image.movedim(2 + axis, 0).flatten(1)  # (length, all else)
        energy = (lines[2:] - 2 * lines[1:-1] + lines[:-2]).square().mean(1)  # [i] is centred on i + 1
        on = torch.zeros(len(energy), dtype=torch.bool)
        for edge in borders(boxes, axis, reduction):
            on[[edge - 2, edge - 1]] = True  # a step before pixel `edge` bends at edge - 1 and at edge
        inside = slice(MARGIN, len(energy) - MARGIN)
        at_borders.append(energy[inside][on[inside]])
        elsewhere.append(energy[inside][~on[inside]])
    return (torch.cat(at_borders).mean() / torch.cat(elsewhere).mean()).item()


def colour_drift(sr: Tensor, lq: Tensor) -> Tensor:
    """Root mean square of the differences of tones, levels of 255."""
    return tone_errors(sr, lq).square().mean().sqrt()


def tone_errors(sr: Tensor, lq: Tensor) -> Tensor:
    """Differences of the averages of corresponding squares of SR and LQ, flat, in levels of 255.

    LQ may be smaller: its squares are, then.
    """
    squares = max(1, sr.shape[-2] // SQUARE), max(1, sr.shape[-1] // SQUARE)
    return 255 * (F.adaptive_avg_pool2d(sr, squares) - F.adaptive_avg_pool2d(lq, squares)).flatten()


def shift(sr: Tensor, lq: Tensor) -> Tensor:
    """How far SR lies beside LQ of the same size, pixels; pictures without any structure have no value."""
    return displacement(sr, lq).norm()


def displacement(sr: Tensor, lq: Tensor) -> Tensor:
    """How far SR lies below and right of LQ, (2,), pixels: the peak of the phase correlation of luma."""
    ours, theirs = (luma(image.double())[0, 0] for image in (sr, lq))  # (H, W) each
    waves = [torch.fft.fftfreq(side, dtype=torch.float64) for side in ours.shape]
    found = ours.new_zeros(2)
    for _ in range(ROUNDS):  # fading pulls a peak towards 0: what was found is taken back, what is left added
        turn = waves[0][:, None] * found[0] + waves[1] * found[1]
        back = torch.fft.ifft2(torch.fft.fft2(ours) * _turned(turn)).real
        found = found + _peak(back, theirs, waves)
    return found


def _peak(a: Tensor, b: Tensor, waves: Sequence[Tensor]) -> Tensor:
    """How far (H, W) a lies below and right of b, (2,): NaN for pictures without structure."""
    cross = torch.fft.fft2(_faded(a)) * torch.fft.fft2(_faded(b)).conj()
    long = waves[0][:, None].square() + waves[1].square() <= LONG_WAVES**2
    strength = (cross.abs() * long).sum() / long.sum()
    if strength < 1e-9:
        return a.new_full((2,), math.nan)
    cross = torch.where(long, cross / (cross.abs() + strength), 0)  # a wave that is hardly there counts less
    row, column = divmod(int(torch.fft.ifft2(cross).real.argmax()), a.shape[1])
    near = torch.arange(-NEAR, NEAR + STEP, STEP, dtype=torch.float64)
    y, x = (
        (place if place <= side // 2 else place - side) + near
        for place, side in zip((row, column), a.shape, strict=True)
    )
    fine = _turned(torch.outer(y, waves[0])) @ cross @ _turned(torch.outer(x, waves[1])).T  # at each (y, x)
    row, column = divmod(int(fine.real.argmax()), len(x))
    return torch.stack([y[row], x[column]])


def _turned(turns: Tensor) -> Tensor:
    """Return the complex numbers of length 1 at these parts of a turn."""
    return torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)


def _faded(picture: Tensor) -> Tensor:
    """Fade (H, W) out towards its edges, about its mean: what leaves at one edge comes in at no other."""
    down, across = (torch.hann_window(side, periodic=False, dtype=picture.dtype) for side in picture.shape)
    return (picture - picture.mean()) * down[:, None] * across


def noise_on_flat(sr: Tensor, hq: Tensor) -> Tensor:
    """Deviation of SR's channels about a slope on fields where the original is flat, levels of 255."""
    ours, theirs = (_roughness(image) for image in (sr, hq))
    flat = theirs <= FLAT**2
    return ours[flat].mean().sqrt() if flat.sum() >= FEWEST else torch.tensor(math.nan)


def _roughness(image: Tensor) -> Tensor:
    """Variance about the best plane within each block, mean of the channels, (blocks,), levels squared."""
    if min(image.shape[-2:]) < BLOCK:
        return image.new_zeros(0)
    blocks = 255 * F.unfold(image, BLOCK, stride=BLOCK)[0].unflatten(0, (3, BLOCK**2))  # (3, pixels, blocks)
    line = torch.linspace(-1, 1, BLOCK, dtype=image.dtype, device=image.device)
    ones = torch.ones_like(line)
    planes = torch.stack([torch.outer(a, b).flatten() for a, b in ((ones, ones), (line, ones), (ones, line))])
    planes = planes / planes.norm(dim=1, keepdim=True)  # (3, pixels), orthonormal
    rest = blocks - planes.T @ (planes @ blocks)
    return (rest.square().sum(1) / (BLOCK**2 - len(planes))).mean(0)

"""Tile borders, drift, shift and noise: what was planted is measured, and what was not is not."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from osediff_core.resize import resize_bicubic
from train.evaluation import artifacts
from train.evaluation.artifacts import colour_drift, displacement, noise_on_flat, shift, tile_borders
from train.evaluation.fidelity import gaussian_blur


def smooth(height, width, seed=0, coarse=12):
    """A picture of large forms, (1, 3, height, width) in [0.2, 0.8]."""
    small = torch.rand(1, 3, coarse, coarse, generator=torch.Generator().manual_seed(seed))
    return 0.2 + 0.6 * F.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)


def noise(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def moved(picture, down, right):
    """Move a picture by parts of a pixel, exactly, what leaves at one edge coming in at the other."""
    frequencies = [torch.fft.fftfreq(side, dtype=torch.float64) for side in picture.shape[-2:]]
    turn = frequencies[0][:, None] * down + frequencies[1] * right
    spectrum = torch.fft.fft2(picture.double()) * torch.polar(torch.ones_like(turn), -2 * torch.pi * turn)
    return torch.fft.ifft2(spectrum).real.float()


@pytest.mark.parametrize("move", [(0.5, 0.0), (0.0, -0.5), (0.25, 0.75), (-3.5, 2.0), (20.0, -9.3)])
def test_a_planted_shift_is_measured(move):
    lq = smooth(120, 96)
    assert displacement(moved(lq, *move), lq).tolist() == pytest.approx(move, abs=0.03)
    assert shift(moved(lq, *move), lq).item() == pytest.approx(math.hypot(*move), abs=0.03)


def test_what_moves_nothing_is_no_shift():
    lq = smooth(120, 96)
    assert shift(lq, lq).item() == pytest.approx(0, abs=1e-6)
    sharper = lq + (lq - gaussian_blur(lq, 1.5))
    for changed in (sharper, gaussian_blur(lq, 2), lq + 0.02 * noise(lq.shape), 0.5 * lq + 0.1):
        assert shift(changed.clamp(0, 1), lq).item() < 0.05
    assert shift(torch.full((1, 3, 32, 32), 0.5), lq[..., :32, :32]).isnan()


def test_an_enlargement_by_its_corner_is_half_a_pixel_of_the_input_away():
    """Of four: 1.5 px of the result in each direction."""
    low = smooth(40, 48)
    enlarged = resize_bicubic(low, (160, 192))
    corner = F.interpolate(low, (160, 192), mode="nearest")  # each pixel's block: its middle is where it was
    assert shift(corner, enlarged).item() < 0.1
    assert shift(corner.roll((-2, -2), (2, 3)), enlarged).item() == pytest.approx(2 * math.sqrt(2), abs=0.1)


def test_a_planted_drift_is_measured():
    lq = smooth(96, 128)
    tint = torch.tensor([5.0, 0.0, -5.0]).view(1, 3, 1, 1) / 255
    assert colour_drift(lq + tint, lq).item() == pytest.approx(math.sqrt(50 / 3), abs=1e-3)
    left = lq.clone()
    left[..., :64] += 6 / 255  # one half: no shift of the picture's mean alone would tell how much
    left[..., 64:] -= 6 / 255
    assert colour_drift(left, lq).item() == pytest.approx(6, abs=1e-3)


def test_detail_is_no_drift():
    lq = smooth(96, 128)
    assert colour_drift(lq, lq).item() == 0
    assert colour_drift(lq + 0.05 * noise(lq.shape), lq).item() < 0.05 * 255 / 32 * 1.3
    assert colour_drift(gaussian_blur(lq, 1), lq).item() < 0.2


def test_a_planted_seam_is_measured_and_a_picture_without_one_is_not():
    picture = smooth(1000, 1200, coarse=40) + 0.004 * noise((1, 3, 1000, 1200))
    assert tile_borders(picture).item() == pytest.approx(1, abs=0.1)
    seam = picture.clone()
    seam[..., 768:] += 4 / 255  # where the first tile ends
    assert tile_borders(seam).item() > 1.3
    elsewhere = picture.clone()
    elsewhere[..., 700:] += 4 / 255
    assert tile_borders(elsewhere).item() < 1.1


def test_a_picture_of_one_tile_has_no_borders():
    assert tile_borders(smooth(512, 512)).isnan()


def test_the_noise_that_is_left_is_measured_where_the_original_is_flat():
    hq = smooth(128, 128, coarse=3)
    hq[..., :64] = 0.5
    rough = hq.clone()
    rough[..., 64:] += 0.2 * noise((1, 3, 128, 64), 2)  # texture of the original: no flat field
    for deviation in (0.5, 4.0, 12.0):
        sr = rough + deviation / 255 * noise(hq.shape)
        assert noise_on_flat(sr, rough).item() == pytest.approx(deviation, rel=0.05)
    assert noise_on_flat(rough, rough).item() < 0.05
    assert noise_on_flat(hq, rough).item() < 0.05  # texture that is gone is no noise


def test_a_slope_is_no_noise_and_without_flat_fields_there_is_no_value():
    slope = torch.linspace(0, 1, 128).expand(1, 3, 128, 128)
    assert noise_on_flat(slope, slope).item() < 0.01
    rough = noise((1, 3, 128, 128))
    assert noise_on_flat(rough, rough).isnan()
    flat = torch.full((1, 3, 128, 128), 0.5)
    assert noise_on_flat(flat[..., :15, :], flat[..., :15, :]).isnan()
    few = artifacts.BLOCK, artifacts.BLOCK * (artifacts.FEWEST - 1)
    assert noise_on_flat(flat[..., : few[0], : few[1]], flat[..., : few[0], : few[1]]).isnan()

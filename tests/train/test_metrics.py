"""The measures of the evaluation, against independent formulas and known values."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from train.demo.heldout import CROP, spread
from train.evaluation.fidelity import gaussian_blur, luma, psnr, psnr_y, sharpness, ssim_y


@pytest.fixture
def picture():
    rows = torch.linspace(0, 6 * math.pi, 48)
    waves = 0.5 + 0.25 * torch.sin(rows)[:, None] * torch.cos(1.3 * rows)[None]
    return torch.stack([waves, waves.flip(0), waves.T])[None]  # (1, 3, 48, 48)


def test_luma_spans_video_range():
    black, white = (luma(torch.full((1, 3, 2, 2), v)) for v in (0.0, 1.0))
    assert torch.allclose(black, torch.tensor(16 / 255))
    assert torch.allclose(white, torch.tensor(235 / 255))


def test_psnr_of_a_known_error(picture):
    assert psnr(picture, picture + 0.1).item() == pytest.approx(20, abs=1e-3)
    assert psnr_y(picture, picture + 0.1).item() == pytest.approx(20 - 20 * math.log10(219 / 255), abs=1e-3)
    assert psnr(picture, picture).item() == pytest.approx(80, abs=1e-6)  # eps 1e-8 caps it


def plain_ssim(x, y):
    """SSIM with the mean over an 11 x 11 Gaussian window, by loops over positions."""
    g = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    w = np.outer(g, g)
    w /= w.sum()
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (w * a).sum(), (w * b).sum()
            va, vb = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum()
            cov = (w * (a - ma) * (b - mb)).sum()
            structure = max(0.0, (2 * cov + 58.5225) / (va + vb + 58.5225))
            values.append(structure * (2 * ma * mb + 6.5025) / (ma**2 + mb**2 + 6.5025))
    return float(np.mean(values))


def test_ssim_equals_the_formula(picture):
    worse = (picture + 0.05 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))).clamp(
        0, 1
    )
    x, y = (np.round(luma(p.double())[0, 0].numpy() * 255) for p in (picture, worse))
    assert ssim_y(picture, worse).item() == pytest.approx(plain_ssim(x, y), abs=1e-9)
    assert ssim_y(picture, picture).item() == pytest.approx(1, abs=1e-12)
    assert ssim_y(picture, worse).item() < 0.99


def test_blur_keeps_the_mean_and_lowers_sharpness(picture):
    blurred = gaussian_blur(picture, 2.0)
    assert blurred.mean().item() == pytest.approx(picture.mean().item(), abs=2e-2)
    assert sharpness(picture, picture).item() == pytest.approx(1)
    assert sharpness(blurred, picture).item() < 0.9


@pytest.mark.parametrize("side", [CROP, CROP + 1, 427, 640])
def test_crops_cover_the_side(side):
    starts = spread(side, CROP)
    assert starts[0] == 0
    assert starts[-1] == side - CROP
    assert all(b - a <= CROP for a, b in pairwise(starts))

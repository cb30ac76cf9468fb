"""benchmarks/tones.py sees a tint and noise that are there, and none that are not."""

import pytest
import torch

from benchmarks import tones
from osediff_core.resize import resize_bicubic


@pytest.fixture
def picture():
    """A slope with noise on it, uint8 (3, 100, 70): its sides are no multiples of the squares."""
    slope = torch.linspace(40, 200, 70).expand(3, 100, 70)
    return (slope + torch.randint(0, 20, (3, 100, 70), generator=torch.manual_seed(0))).to(torch.uint8)


def enlarge(model, lq, scale, color):
    """Stand in for `restore`: bicubic, with whatever `model` does after it."""
    return model(resize_bicubic(lq, (scale * lq.shape[2], scale * lq.shape[3])))


def test_bicubic_keeps_tones_and_a_planted_tint_is_measured(picture):
    lq = tones.shrink(picture)
    assert lq.shape == (1, 3, 24, 16)
    sr = resize_bicubic(lq, (96, 64))
    assert tones.tone_errors(sr, lq).abs().max() < 2
    tint = torch.tensor([0.0, 0.0, 3.0]).view(1, 3, 1, 1) / 255
    shift = tones.tone_errors(sr + tint, lq) - tones.tone_errors(sr, lq)
    assert shift.view(3, -1).mean(1).tolist() == pytest.approx([0, 0, 3], abs=1e-3)


def test_a_row_shows_each_light_and_its_tint(picture, monkeypatch):
    monkeypatch.setattr(tones, "restore", enlarge)
    cells = tones.tone_row(lambda sr: sr, "p", [picture], "none").split(" | ")[2:]
    assert len(cells) == len(tones.LIGHTS)
    assert all(float(cell.split(" / ")[0]) < 1.5 for cell in cells)
    tinted = tones.tone_row(lambda sr: sr + 10 / 255, "p", [picture], "none").split(" | ")[2:]
    assert all(float(cell.split(" / ")[0]) > 9 for cell in tinted)


def test_noise_that_is_left_is_told_from_noise_that_is_gone(monkeypatch):
    monkeypatch.setattr(tones, "restore", enlarge)
    kept, bicubic = tones.noise_left(lambda sr: sr, 20)
    assert kept == pytest.approx(bicubic)
    assert 5 < bicubic < 20
    halved, _ = tones.noise_left(lambda sr: sr.mean() + (sr - sr.mean()) / 2, 20)
    assert halved == pytest.approx(bicubic / 2, rel=0.01)

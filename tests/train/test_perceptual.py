"""The replacement perceptual term, and what people read where LPIPS cannot be had."""

import sys
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F

from osediff_core import OSEDiffError
from train.evaluation.fidelity import ssim_y
from train.objectives.perceptual import build_perceptual, gradient_loss, ssim, structure_loss

CPU = torch.device("cpu")


@pytest.fixture
def picture():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_gradient_loss_sees_edges_and_not_a_shift(picture):
    assert gradient_loss(picture, picture).tolist() == [0, 0]
    assert gradient_loss(picture + 0.1, picture).max() < 1e-6
    assert gradient_loss(F.avg_pool2d(picture, 3, 1, 1), picture).min() > 0.1


def test_gradient_loss_is_one_value_per_sample(picture):
    other = picture.clone()
    other[1] = 0
    first, second = gradient_loss(other, picture)
    assert first == 0
    assert second > 0.1


def test_gradient_loss_compares_coarse_scales_too(picture):
    coarse = F.interpolate(picture[:1, :, :4, :4], size=(32, 32), mode="bilinear")
    fine = picture[:1]
    fine = fine - F.interpolate(F.avg_pool2d(fine, 2), scale_factor=2)  # nothing left at half size
    zero = torch.zeros(1, 3, 32, 32)

    def all_at_full_size(x):
        rows, columns = x.diff(dim=-2), x.diff(dim=-1)
        return rows.abs().mean() + columns.abs().mean()

    assert gradient_loss(coarse, zero) > all_at_full_size(coarse)
    assert gradient_loss(fine, zero) < 0.5 * all_at_full_size(fine)


def test_gradient_loss_takes_the_smallest_pictures():
    one = torch.ones(1, 3, 1, 1)
    assert gradient_loss(one, -one).tolist() == [0]


def as_grey_luma(y):
    """(B, 1, H, W) whole levels of luma to the grey RGB in [0, 1] that has them; both span 219 levels."""
    return ((y - 16) / 219).expand(-1, 3, -1, -1)


def test_ssim_is_the_metrics_own_on_grey_pictures():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(60, 190, (2, 1, 24, 31), generator=generator).double()
    other = (y + torch.randint(-20, 21, y.shape, generator=generator)).clamp(16, 235)
    expected = ssim_y(as_grey_luma(y), as_grey_luma(other))
    # on the scale of luma: 255ths, which is what its constants are for
    assert torch.allclose(
        ssim((y / 255).expand(-1, 3, -1, -1), (other / 255).expand(-1, 3, -1, -1)), expected
    )
    assert expected.max() < 0.99


def test_structure_loss_sees_a_lost_texture_that_gradients_hardly_do(picture):
    faint, lost = 0.1 * picture, torch.zeros_like(picture)
    assert structure_loss(faint, faint).abs().max() < 1e-6
    assert (structure_loss(lost, faint) > 1.5 * gradient_loss(lost, faint)).all()
    assert structure_loss(lost, faint).shape == (2,)


def test_structure_loss_can_be_trained_with(picture):
    sr = (0.5 * picture).requires_grad_()
    structure_loss(sr, picture).sum().backward()
    with torch.no_grad():
        better = sr - 10 * sr.grad
    assert structure_loss(better, picture).sum() < structure_loss(sr, picture).sum()


def test_names(picture):
    assert build_perceptual("none", CPU) is None
    assert build_perceptual("gradient", CPU) is gradient_loss
    assert build_perceptual("structure", CPU) is structure_loss


@pytest.mark.parametrize("missing", ["package", "weights"])
def test_where_lpips_cannot_be_had_the_replacement_is_named(monkeypatch, missing):
    def no_network(**_):
        raise URLError("no route to host")

    fake = None if missing == "package" else SimpleNamespace(LPIPS=no_network)
    monkeypatch.setitem(sys.modules, "lpips", fake)
    with pytest.raises(OSEDiffError, match=r'loss\.perceptual = "gradient"'):
        build_perceptual("lpips", CPU)


def test_lpips_is_frozen_and_gives_one_value_per_sample(monkeypatch, picture):
    class Network(torch.nn.Conv2d):
        def __init__(self, net, verbose):
            super().__init__(3, 1, 1)
            assert net == "vgg"

        def forward(self, a, b):
            return super().forward(a - b).square().mean(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1)

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=Network))
    sr = picture.clone().requires_grad_()
    loss = build_perceptual("lpips", CPU)(sr, torch.zeros_like(sr))
    assert loss.shape == (2,)
    loss.sum().backward()
    assert sr.grad.abs().sum() > 0

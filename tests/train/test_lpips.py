"""LPIPS from its own package, on a VGG16 with random weights: the real ones are downloaded by users only."""

import importlib.util

import pytest
import torch

from train.objectives.perceptual import build_perceptual

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("lpips", "torchvision")),
        reason="needs lpips and a torchvision that matches torch",
    ),
]


@pytest.fixture
def random_vgg(monkeypatch):
    import torchvision

    build = torchvision.models.vgg16
    monkeypatch.setattr(torchvision.models, "vgg16", lambda pretrained: build(weights=None))


def test_lpips_is_frozen_and_gives_one_value_per_sample(random_vgg):
    loss = build_perceptual("lpips", torch.device("cpu"))
    hq = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sr = hq.clone().requires_grad_()
    assert loss(sr, hq).tolist() == [0, 0]
    noisy = (hq + 0.3 * torch.randn_like(hq)).requires_grad_()
    value = loss(noisy, hq)
    assert value.shape == (2,)
    assert value.min() > 0
    value.sum().backward()
    assert noisy.grad.abs().sum() > 0

"""A random base of a few thousand weights, a few pictures, and a short run on both."""

import copy
from dataclasses import replace

import pytest
import torch
from PIL import Image

from osediff_core import OSEDiff
from train.config import LossConfig, ModelConfig, RunConfig, TrainConfig
from train.data import DataConfig
from train.networks import Backbone


@pytest.fixture(scope="session")
def loaded(micro):
    """Return the plain base, read once; copy it before changing it."""
    return OSEDiff.from_pretrained(micro / "tiny_sd", dtype="float32", device="cpu")


@pytest.fixture
def backbone(loaded):
    """Return a maker of fresh networks; options of `Backbone` and settings of its `ModelConfig` go in."""

    def make(seed=0, with_critic=True, **settings):
        model = copy.deepcopy(loaded)
        return Backbone(model, ModelConfig(**settings), torch.Generator().manual_seed(seed), with_critic)

    return make


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Return a folder of three smooth random pictures, 80 x 96 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(3):
        coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
        fine = torch.nn.functional.interpolate(coarse, size=(80, 96), mode="bicubic").clamp(0, 1)
        levels = (fine[0] * 255).byte().permute(1, 2, 0).contiguous()
        Image.fromarray(levels.numpy()).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def config(tmp_path, pictures, micro):
    """Return a maker of short configurations; sections are changed by keyword: run={"steps": 3}."""

    def make(**sections):
        made = TrainConfig(
            model=ModelConfig(base=str(micro / "tiny_sd")),
            data=DataConfig(sources=(str(pictures),), crop=64),
            loss=LossConfig(perceptual="gradient"),
            run=RunConfig(
                out=str(tmp_path / "run"), steps=2, batch_size=2, workers=0, sample_every=0, tracker="none"
            ),
        )
        return replace(made, **{name: replace(getattr(made, name), **new) for name, new in sections.items()})

    return make


@pytest.fixture
def batch():
    """Return a smooth random LQ and HQ, (2, 3, 64, 64) each in [0, 1]."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(4, 3, 4, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1)
    return fine[:2], fine[2:]

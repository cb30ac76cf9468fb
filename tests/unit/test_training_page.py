"""docs/osediff_training_step_in_one_page.py is what the trainer does."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from osediff_core import OSEDiff
from osediff_core.base.load import DEMO_BASE
from train.config import PUBLISHED_NEGATIVE_PROMPT, LossConfig, ModelConfig, TrainConfig
from train.engine.steps import Stepper
from train.networks import Backbone
from train.objectives.batch import Batch
from train.objectives.draws import draw
from train.objectives.perceptual import build_perceptual

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "osediff_training_step_in_one_page.py"
SIDE, SAMPLES, SPREAD = 32, (5, 6), 0.002
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("training_page", PAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Both:
    """The page's networks and the trainer's, equal, and what one step of either is given."""

    def __init__(self):
        self.page_net, net = (
            Backbone(
                OSEDiff.from_pretrained(DEMO_BASE, device="cpu", dtype="float32"),
                ModelConfig(),
                torch.Generator().manual_seed(1),
            )
            for _ in range(2)
        )
        for one in (self.page_net, net):  # adapters that are zero would hide what the roles do
            dice = torch.Generator().manual_seed(2)
            for tensors in (one.generator_parameters(), one.critic_parameters()):
                for name, parameter in tensors.items():
                    if "lora_B" in name:
                        parameter.data.normal_(0, SPREAD, generator=dice)
        model = net.model
        words = ("", PUBLISHED_NEGATIVE_PROMPT)
        self.c_y, self.c_neg = (model.encode_prompt([text]).detach() for text in words)
        dice = torch.Generator().manual_seed(3)
        self.lq, self.hq = torch.rand(2, len(SAMPLES), 3, SIDE, SIDE, generator=dice)
        latent = (model.latent_channels, SIDE // model.reduction, SIDE // model.reduction)
        self.draws = draw(0, SAMPLES, latent, LossConfig(), CPU)
        config = TrainConfig(loss=LossConfig(perceptual="gradient"))
        self.stepper = Stepper(net, config, build_perceptual("gradient", CPU), self.c_y, self.c_neg)
        self.batch = Batch(self.lq, self.hq, self.draws)

    def of_page(self, page):
        """The page's loss of the generator and its latent."""
        embeds = (e.expand(len(SAMPLES), -1, -1) for e in (self.c_y, self.c_neg))
        return page.data_and_regularization(
            self.page_net, 2 * self.lq - 1, 2 * self.hq - 1, *embeds, self.draws
        )

    def critic_of_page(self, page, z):
        """The page's loss of phi'."""
        return page.diffusion(self.page_net, z, self.c_y.expand(len(SAMPLES), -1, -1), self.draws)


@pytest.fixture
def both():
    return Both()


def gradient(loss, parameters):
    """All gradients as one vector."""
    found = torch.autograd.grad(loss, list(parameters.values()))
    return torch.cat([g.flatten() for g in found])


def relative(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def distances(both, page):
    """How far losses and gradients of page and trainer are apart: of the generator, then of the critic."""
    ours, z = both.of_page(page)
    restored, theirs, _ = both.stepper.generator_loss(both.batch)
    net = both.stepper.backbone
    pairs = [(ours, theirs)]
    pairs.append(
        (
            gradient(ours, both.page_net.generator_parameters()),
            gradient(theirs, net.generator_parameters()),
        )
    )
    ours, theirs = both.critic_of_page(page, z), both.stepper.opponents["critic"].loss(restored, 0)
    pairs.append((ours, theirs))
    pairs.append(
        (gradient(ours, both.page_net.critic_parameters()), gradient(theirs, net.critic_parameters()))
    )
    return [relative(*pair) for pair in pairs]


def test_losses_and_gradients_are_the_trainers(page, both):
    loss, its_gradient, critic_loss, its_critic_gradient = distances(both, page)
    assert max(loss, critic_loss) < 1e-6
    assert max(its_gradient, its_critic_gradient) < 2e-5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GUIDANCE", 7.0),
        ("LAMBDA_2", 0.9),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("T", 990), ("LAMBDA_1", 1.9))),
    ],
)
def test_control_another_constant_is_seen(page, both, monkeypatch, name, value):
    monkeypatch.setattr(page, name, value)
    assert distances(both, page)[1] > 5e-4


def test_the_whole_step_leaves_the_same_weights(page, both):
    nets = both.page_net, both.stepper.backbone
    before = [p.detach().clone() for p in nets[1].generator_parameters().values()]
    loss, z = both.of_page(page)
    for parameters, of in (
        (both.page_net.generator_parameters(), loss),
        (both.page_net.critic_parameters(), both.critic_of_page(page, z)),
    ):
        page.update(page.AdamW(parameters.values(), lr=5e-5, weight_decay=1e-2), of)
    both.stepper.step([both.batch])
    for which in ("generator_parameters", "critic_parameters"):
        ours, theirs = (getattr(net, which)() for net in nets)
        # AdamW's first step is as long as the learning rate, whatever the gradient's size.
        assert max((ours[k] - theirs[k]).abs().max().item() for k in theirs) < 2e-5
        assert (
            relative(*(torch.cat([t.detach().flatten() for t in side.values()]) for side in (ours, theirs)))
            < 1e-6
        )
    after = nets[1].generator_parameters().values()
    assert max((a - b).abs().max().item() for a, b in zip(after, before, strict=True)) > 4e-5


@pytest.mark.slow
def test_it_runs_as_its_first_line_says():
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PAGE)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [f"step {n}" for n in range(1, 6)]

"""The GAN on the critic's features: its losses in closed form, and that it trains what it should."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from train.config import LossConfig, TrainConfig
from train.engine.steps import Stepper
from train.networks import Backbone
from train.objectives.batch import Batch
from train.objectives.diffusion_gan import HEAD, Head, generator_loss, head_loss, passed_on
from train.objectives.draws import draw
from train.objectives.registry import uses_critic, uses_hq_latents

CPU = torch.device("cpu")
PROMPT = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(1))
NEGATIVE = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def stepper(loaded):
    """Return a maker of steppers with the GAN, whose head already says something."""

    def make(recompute="none", **loss):
        config = TrainConfig(loss=replace(LossConfig(lambda_diffusion_gan=1.0), **loss))
        generator = torch.Generator().manual_seed(0)
        networks = Backbone(copy.deepcopy(loaded), config.model, generator, True, True)
        networks.recompute(recompute)
        made = Stepper(networks, config, None, PROMPT, NEGATIVE)
        with torch.no_grad():
            for parameter in made.opponents["critic"].parameters.values():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        return made

    return make


@pytest.fixture
def example(batch):
    return Batch(*batch, draw(0, [0, 1], (4, 8, 8), LossConfig(), CPU))


def test_the_head_ends_at_the_ratio_of_the_densities():
    """Of three HQ latents and one restored that look alike, the best verdict is log 3."""
    verdict = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.SGD([verdict], 1.0)
    for _ in range(100):
        optimizer.zero_grad()
        (
            3 * head_loss(verdict, torch.tensor(-math.inf)) + head_loss(torch.tensor(math.inf), verdict)
        ).backward()
        optimizer.step()
    assert verdict.item() == pytest.approx(math.log(3), abs=1e-5)


def test_against_the_best_discriminator_of_two_gaussians_the_generator_moves_to_the_real_one():
    """N(0, 1) real, N(m, 1) restored: log-ratio (m^2 - 2 m z) / 2, so that -log D pulls z against m."""
    m, z = 1.5, torch.linspace(-3, 3, 7).requires_grad_()
    log_ratio = (m**2 - 2 * m * z) / 2
    generator_loss(log_ratio).backward()
    torch.testing.assert_close(z.grad, m * torch.sigmoid(-log_ratio.detach()) / len(z))


def test_what_is_passed_on_has_the_value_and_the_gradient():
    z, gradient = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    loss = passed_on(torch.tensor(0.7), gradient, 2 * z)
    loss.backward()
    assert loss.item() == pytest.approx(0.7)
    torch.testing.assert_close(z.grad, 2 * gradient)


def test_a_new_head_has_no_opinion():
    verdict = Head(16, torch.Generator().manual_seed(0))(torch.randn(2, 16, 4, 4))
    assert verdict.shape == (2, 1, 4, 4)
    assert not verdict.any()


@pytest.mark.parametrize("recompute", ["none", "all"])
def test_the_generators_gradient_is_that_of_the_whole_graph_and_enters_nothing_else(
    stepper, example, recompute
):
    made = stepper(recompute)
    restored, losses, _ = made.generator_losses(example)
    (ours,) = torch.autograd.grad(losses["diffusion_gan"], restored.z, retain_graph=True)
    head = Head(made.backbone.bottleneck_width, torch.Generator())
    own = made.opponents["critic"].parameters
    head.load_state_dict({k.removeprefix(HEAD): p for k, p in own.items() if k.startswith(HEAD)})
    z = restored.z.detach().requires_grad_()
    t, noise = example.draws.vsd_timesteps, example.draws.vsd_noise
    a = made.backbone.model.alphas_cumprod[t].view(-1, 1, 1, 1)
    with made.backbone.as_critic():
        features = made.backbone.critic_features(a.sqrt() * z + (1 - a).sqrt() * noise, t, PROMPT)
        direct = torch.nn.functional.softplus(-head(features)).mean()
        (theirs,) = torch.autograd.grad(direct, z)
    assert losses["diffusion_gan"].item() == pytest.approx(direct.item())
    assert theirs.abs().max() > 0
    torch.testing.assert_close(ours, theirs)
    losses["diffusion_gan"].backward()
    assert all(p.grad is None for p in own.values())


def test_the_critic_learns_to_tell_them_apart_besides_its_own_task(stepper, example):
    made = stepper(critic_gan=0.5)
    critic, restored = made.opponents["critic"], made.restore(example).detach()
    plain = stepper(lambda_diffusion_gan=0.0).opponents["critic"]
    names = {name for name in critic.parameters if name.startswith(HEAD)}
    assert critic.parameters.keys() - names == plain.parameters.keys()
    critic.loss(restored, 0).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in critic.parameters.values())
    before = {name: p.detach().clone() for name, p in critic.parameters.items()}
    critic.step([restored])
    assert all(not torch.equal(p, before[name]) for name, p in critic.parameters.items())


def test_what_it_needs_is_asked_for():
    alone = replace(LossConfig(), lambda_vsd=0.0, lambda_diffusion_gan=1.0)
    assert uses_critic(alone)
    assert uses_hq_latents(alone)
    assert not uses_critic(replace(alone, lambda_diffusion_gan=0.0, lambda_tsm=1.0))
    assert uses_hq_latents(replace(alone, lambda_diffusion_gan=0.0, lambda_tsm=1.0))
    assert not uses_hq_latents(LossConfig())

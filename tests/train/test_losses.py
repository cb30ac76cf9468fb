"""The losses as mathematics; tests/parity compares them with recorded outputs."""

import pytest
import torch

from osediff_core.diffusion import add_noise, predict_x0
from train.losses import critic_loss, data_loss, guided, vsd_loss

ALPHAS_CUMPROD = torch.linspace(0.999, 0.005, 1000)


@pytest.fixture
def drawn():
    """Return z, noise and two predictions, (2, 4, 8, 8) each, and timesteps (2,)."""
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(4, 2, 4, 8, 8, generator=generator)
    return [*tensors, torch.tensor([30, 900])]


def test_vsd_gradient_is_the_weighted_difference_of_the_scores(drawn):
    z, noise, eps_critic, eps_teacher, t = drawn
    z = z.requires_grad_()
    loss, distance = vsd_loss(z, noise, t, ALPHAS_CUMPROD, lambda *_: eps_critic, lambda *_: eps_teacher)
    loss.backward()
    alpha_bar = ALPHAS_CUMPROD[t]
    z_t = add_noise(z.detach(), noise, alpha_bar)
    critic, teacher = predict_x0(z_t, eps_critic, alpha_bar), predict_x0(z_t, eps_teacher, alpha_bar)
    weight = (z.detach() - teacher).abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(z.grad, 2 * (critic - teacher) / weight / z.numel())
    torch.testing.assert_close(distance, (critic - teacher).abs().mean(dim=(1, 2, 3)))


def test_vsd_sends_no_gradient_into_the_networks(drawn):
    z, noise, eps_critic, eps_teacher, t = drawn
    scale = torch.ones((), requires_grad=True)
    loss, distance = vsd_loss(
        z.requires_grad_(),
        noise,
        t,
        ALPHAS_CUMPROD,
        lambda *_: scale * eps_critic,
        lambda *_: scale * eps_teacher,
    )
    loss.backward()
    assert scale.grad is None
    assert not distance.requires_grad


def test_vsd_vanishes_where_the_scores_agree(drawn):
    z, noise, eps, _, t = drawn
    z = z.requires_grad_()
    vsd_loss(z, noise, t, ALPHAS_CUMPROD, lambda *_: eps, lambda *_: eps)[0].backward()
    assert z.grad.abs().max() == 0


def test_vsd_survives_a_teacher_that_returns_the_latent_itself(drawn):
    _, noise, _, _, t = drawn
    z = torch.zeros_like(noise).requires_grad_()
    alpha_bar = ALPHAS_CUMPROD[t].view(-1, 1, 1, 1)
    exact = add_noise(z.detach(), noise, alpha_bar) / (1 - alpha_bar).sqrt()
    loss, _ = vsd_loss(z, noise, t, ALPHAS_CUMPROD, lambda *_: exact, lambda *_: exact)
    assert loss.isfinite()


def test_critic_learns_from_latents_that_it_does_not_change(drawn):
    z, noise, eps, _, t = drawn
    z, eps = z.requires_grad_(), eps.requires_grad_()
    loss = critic_loss(z, noise, t, ALPHAS_CUMPROD, lambda z_t, _: eps + 0 * z_t)
    loss.backward()
    assert z.grad is None
    assert eps.grad.abs().sum() > 0
    torch.testing.assert_close(loss, (eps - noise).square().mean())


def test_guidance_of_one_is_the_prompt_alone(drawn):
    negative, positive = drawn[:2]
    torch.testing.assert_close(guided(negative, positive, 1.0), positive)
    torch.testing.assert_close(guided(negative, positive, 7.5), positive + 6.5 * (positive - negative))


def test_data_loss_is_the_mean_square(drawn):
    assert data_loss(torch.full((1, 3, 2, 2), 1.0), torch.full((1, 3, 2, 2), -1.0)) == 4

"""Target score matching, with a teacher whose score is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from train.objectives.tsm import tsm_loss

ALPHAS_CUMPROD = torch.linspace(0.999, 0.005, 1000)
MEAN, DEVIATION = 0.3, 0.8
"""Of the clean latents that the teacher knows, each number on its own."""


@pytest.fixture
def drawn():
    """Return two latents and noise, (2, 4, 8, 8) each, and timesteps (2,)."""
    generator = torch.Generator().manual_seed(0)
    return [*torch.randn(3, 2, 4, 8, 8, generator=generator), torch.tensor([30, 900])]


def teacher(z_t, timesteps):
    """The noise in z_t, by autograd through log p(z_t), which is Gaussian: -sqrt(1 - a) times the score."""
    alpha_bar = ALPHAS_CUMPROD[timesteps].view(-1, 1, 1, 1)
    with torch.enable_grad():
        z_t = z_t.detach().requires_grad_()
        spread = (alpha_bar * DEVIATION**2 + 1 - alpha_bar).sqrt()
        log_p = Normal(alpha_bar.sqrt() * MEAN, spread.expand_as(z_t)).log_prob(z_t).sum()
        (score,) = torch.autograd.grad(log_p, z_t)
    return -(1 - alpha_bar).sqrt() * score


def test_the_gradient_leads_to_the_target(drawn):
    """Of a Gaussian the scores differ by a known share of z - z_target, and x0 is its conditional mean."""
    z, z_target, noise, t = drawn
    loss, distance = tsm_loss(z.requires_grad_(), z_target, noise, t, ALPHAS_CUMPROD, teacher)
    loss.backward()
    gradient, z, alpha_bar = z.grad, z.detach(), ALPHAS_CUMPROD[t].view(-1, 1, 1, 1)
    known, unknown = alpha_bar * DEVIATION**2, 1 - alpha_bar  # variances in z_t
    apart = alpha_bar.sqrt() * unknown.sqrt() * (z - z_target) / (known + unknown)  # of the two eps
    z_t = alpha_bar.sqrt() * z + unknown.sqrt() * noise
    x0 = MEAN + alpha_bar.sqrt() * DEVIATION**2 / (known + unknown) * (z_t - alpha_bar.sqrt() * MEAN)
    weight = (unknown / alpha_bar).sqrt() / (z - x0).abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(gradient, 2 * weight * apart / z.numel())
    torch.testing.assert_close(distance, apart.abs().mean(dim=(1, 2, 3)))


def test_nothing_moves_at_the_target_and_descending_comes_there(drawn):
    z, z_target, noise, t = drawn
    loss, distance = tsm_loss(z_target.clone().requires_grad_(), z_target, noise, t, ALPHAS_CUMPROD, teacher)
    assert loss == 0
    assert not distance.any()
    moving = z.clone().requires_grad_()
    optimizer = torch.optim.SGD([moving], 20.0)
    for _ in range(200):
        optimizer.zero_grad()
        tsm_loss(moving, z_target, noise, t, ALPHAS_CUMPROD, teacher)[0].backward()
        optimizer.step()
    far, near = ((x - z_target).abs().mean() for x in (z, moving.detach()))
    assert near < 0.05 * far


def test_no_gradient_enters_the_teacher_or_the_target(drawn):
    z, z_target, noise, t = drawn
    scale = torch.ones((), requires_grad=True)
    z_target.requires_grad_()
    loss, _ = tsm_loss(
        z.requires_grad_(), z_target, noise, t, ALPHAS_CUMPROD, lambda *given: scale * teacher(*given)
    )
    loss.backward()
    assert scale.grad is None
    assert z_target.grad is None

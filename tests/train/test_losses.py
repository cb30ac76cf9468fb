"""The losses as mathematics; tests/parity compares them with recorded outputs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from osediff_core.diffusion import add_noise, predict_x0
from train.networks.guidance import guided
from train.objectives import (
    adversarial_loss,
    binned,
    critic_loss,
    csd_loss,
    data_loss,
    discriminator_loss,
    tone_loss,
    vsd_loss,
)
from train.objectives.discriminator import PatchDiscriminator

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


def test_log_mse_moves_with_psnr_picture_by_picture():
    hq = torch.zeros(2, 3, 4, 4)
    sr = torch.stack([torch.full((3, 4, 4), 0.5), torch.full((3, 4, 4), 0.1)]).requires_grad_()
    data_loss(sr, hq, "log_mse").backward()
    easy_over_hard = sr.grad[1].sum() / sr.grad[0].sum()
    assert easy_over_hard == pytest.approx((0.1 / (0.01 + 4e-4)) / (0.5 / (0.25 + 4e-4)))
    halved = data_loss(sr / 10**0.05, hq, "log_mse")  # everything 1 dB better
    drop = data_loss(sr, hq, "log_mse") - halved
    assert drop.item() == pytest.approx(torch.log(torch.tensor(10.0)).item() / 10, rel=0.03)
    sr.grad = None
    data_loss(sr, hq).backward()
    assert sr.grad[1].sum() / sr.grad[0].sum() == pytest.approx(0.2), (
        "control: the square forgets the easy one"
    )


@given(height=st.integers(1, 50), width=st.integers(1, 50), tint=st.floats(-0.5, 0.5))
def test_the_tone_term_is_the_tint_at_any_size(height, width, tint):
    hq = torch.rand(2, 3, height, width) - 0.5
    assert tone_loss(hq + tint, hq).item() == pytest.approx(abs(tint), abs=1e-5)


def test_the_tone_term_loses_noise_and_keeps_where_a_tint_is():
    hq = torch.zeros(1, 3, 64, 64)
    noise = 0.1 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tint = torch.zeros_like(hq)
    tint[:, 0, :32, :32], tint[:, 0, 32:, 32:] = 0.04, -0.04  # red up in one corner, down in another
    assert tone_loss(noise, hq) < 0.01
    a_sixth = 0.04 / 6  # of all values: a third of the channels, half of the area
    assert tone_loss(hq + tint, hq).item() == pytest.approx(a_sixth)
    assert data_loss(noise, hq) > 10 * data_loss(tint, hq), "control: the square sees the noise"


def test_the_papers_form_is_the_weighted_difference_of_the_noises(drawn):
    z, noise, eps_critic, eps_teacher, t = drawn
    z = z.requires_grad_()
    networks = (lambda *_: eps_critic, lambda *_: eps_teacher)
    vsd_loss(z, noise, t, ALPHAS_CUMPROD, *networks, form="paper")[0].backward()
    weight = (1 - ALPHAS_CUMPROD[t]).view(-1, 1, 1, 1)
    torch.testing.assert_close(z.grad, 2 * weight * (eps_teacher - eps_critic) / z.numel())
    own = z.detach().clone().requires_grad_()
    vsd_loss(own, noise, t, ALPHAS_CUMPROD, *networks)[0].backward()
    cosine = torch.nn.functional.cosine_similarity(z.grad.flatten(1), own.grad.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(2))  # another length for each sample, one direction
    assert not torch.allclose(z.grad, own.grad, rtol=0.1)


def test_csd_is_vsd_with_the_negative_score_as_critic(drawn):
    z, noise, eps_negative, eps_prompt, t = drawn
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    loss, distance = csd_loss(a, noise, t, ALPHAS_CUMPROD, lambda *_: (eps_negative, eps_prompt), 7.5)
    loss.backward()
    teacher = guided(eps_negative, eps_prompt, 7.5)
    wanted, far = vsd_loss(b, noise, t, ALPHAS_CUMPROD, lambda *_: eps_negative, lambda *_: teacher)
    wanted.backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(distance, far)
    toward = predict_x0(z, eps_prompt, ALPHAS_CUMPROD[t]) - predict_x0(z, eps_negative, ALPHAS_CUMPROD[t])
    assert (-a.grad * toward).sum() > 0  # a step down the gradient goes to the prompt
    same = z.clone().requires_grad_()
    csd_loss(same, noise, t, ALPHAS_CUMPROD, lambda *_: (eps_prompt, eps_prompt), 7.5)[0].backward()
    assert same.grad.abs().max() == 0


def test_csd_climbs_the_classifier_that_the_two_scores_imply():
    """Two Gaussians whose scores are known: autograd of log p(prompt | z_t), by Bayes, against the loss.

    z given the prompt is N(m, 1), given the negative prompt N(n, 1), element by element. Noised, they are
    N(sqrt(a) m, 1) and N(sqrt(a) n, 1), and eps = -sqrt(1 - a) times the score is the best prediction.
    """
    generator = torch.Generator().manual_seed(3)
    z, noise, m, n = torch.randn(4, 2, 4, 8, 8, generator=generator, dtype=torch.float64)
    t, guidance = torch.tensor([150, 600]), 7.5
    alpha_bar = ALPHAS_CUMPROD.double()[t].view(-1, 1, 1, 1)  # (B, 1, 1, 1)

    def log_density(z_t, mean):
        return -0.5 * (z_t - alpha_bar.sqrt() * mean).square().sum()

    def teacher(z_t, _):
        found = []
        for mean in (n, m):
            with torch.enable_grad():
                x = z_t.clone().requires_grad_()
                (score,) = torch.autograd.grad(log_density(x, mean), x)
            found.append(-(1 - alpha_bar).sqrt() * score)
        return tuple(found)

    own = z.clone().requires_grad_()
    csd_loss(own, noise, t, ALPHAS_CUMPROD.double(), teacher, guidance)[0].backward()
    z_t = add_noise(z, noise, alpha_bar.flatten()).requires_grad_()
    log_ratio = log_density(z_t, m) - log_density(z_t, n)  # log p(prompt | z_t) - log p(negative | z_t)
    (climb,) = torch.autograd.grad(log_ratio, z_t)  # (B, C, h, w)
    eps = guided(*teacher(z_t.detach(), t), guidance)
    far = (z - predict_x0(z_t.detach(), eps, alpha_bar.flatten())).abs().mean(dim=(1, 2, 3), keepdim=True)
    wanted = -2 / z.numel() * guidance * (1 - alpha_bar) / alpha_bar.sqrt() * climb / far
    torch.testing.assert_close(own.grad, wanted)
    other = -2 / z.numel() * (guidance - 1) * (1 - alpha_bar) / alpha_bar.sqrt() * climb / far
    assert not torch.allclose(own.grad, other, rtol=0.05), (
        "control: VSD's teacher against the prompt's own score"
    )


def test_distances_are_sorted_by_timestep():
    sums, counts = binned(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0, 199, 200, 999]), 5)
    assert sums.tolist() == [3, 4, 0, 0, 8]
    assert counts.tolist() == [2, 1, 0, 0, 1]


def test_hinge_losses():
    assert discriminator_loss(torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 0.5])) == 0.5 + 0.75
    assert adversarial_loss(torch.tensor([2.0, -1.0])) == -0.5


def test_the_discriminator_learns_to_tell_and_starts_alike():
    def made() -> PatchDiscriminator:
        return PatchDiscriminator(torch.Generator().manual_seed(0))

    judge, other = made(), made()
    assert all(torch.equal(a, b) for a, b in zip(judge.parameters(), other.parameters(), strict=True))
    generator = torch.Generator().manual_seed(1)
    sharp = torch.rand(4, 3, 32, 32, generator=generator) * 2 - 1
    soft = torch.nn.functional.avg_pool2d(sharp, 5, 1, 2)
    optimizer = torch.optim.Adam(judge.parameters(), 1e-3)
    first = discriminator_loss(judge(sharp), judge(soft)).item()
    for _ in range(20):
        optimizer.zero_grad()
        discriminator_loss(judge(sharp), judge(soft)).backward()
        optimizer.step()
    assert discriminator_loss(judge(sharp), judge(soft)) < 0.5 * first
    assert judge(sharp).shape == (4, 1, 4, 4)

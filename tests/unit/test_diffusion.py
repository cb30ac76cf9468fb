import pytest
import torch

from osediff_core.diffusion import add_noise, alphas_cumprod, predict_x0
from osediff_core.errors import OSEDiffError

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def test_stable_diffusion_has_almost_no_signal_left_at_the_step():
    a = alphas_cumprod(SD)
    assert a.dtype == torch.float32
    assert len(a) == 1000
    assert a[999].item() == pytest.approx(0.00466009508818388, abs=1e-10)


def test_linear_schedule_is_the_default_of_diffusers():
    assert alphas_cumprod({})[0].item() == pytest.approx(1 - 0.0001)


def test_trained_betas_are_taken_as_they_are():
    assert alphas_cumprod({"trained_betas": [0.5, 0.5]}).tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("config", "word"),
    [({"beta_schedule": "sigmoid"}, "sigmoid"), ({"rescale_betas_zero_snr": True}, "zero signal")],
)
def test_schedules_that_cannot_be_used_are_refused(config, word):
    with pytest.raises(OSEDiffError, match=word):
        alphas_cumprod(config)


def test_x0_undoes_noise_at_one_timestep_per_image():
    z, noise = torch.randn(2, 8, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    a = torch.linspace(0.01, 0.99, 8)
    assert torch.allclose(predict_x0(add_noise(z, noise, a), noise, a), z, atol=1e-5)
    assert not torch.allclose(predict_x0(add_noise(z, noise, a), noise, a.flip(0)), z, atol=1e-1)


def test_x0_is_float32_whatever_the_networks_compute_in():
    z = torch.full((1, 4, 2, 2), 60000.0, dtype=torch.float16)
    x0 = predict_x0(z, -z, torch.tensor(0.00466))
    assert x0.dtype == torch.float32
    assert x0[0, 0, 0, 0].item() == pytest.approx(z[0, 0, 0, 0].item() * 29.264, rel=1e-4)

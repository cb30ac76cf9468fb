"""The closed forms, for numbers of every size."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from osediff_core.color import adain, match_color, wavelet
from osediff_core.diffusion import add_noise, predict_x0
from osediff_core.lora import folded

relaxed = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 2**31)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@relaxed
@given(seeds, st.floats(0.004, 0.9999))
def test_x0_is_the_inverse_of_adding_noise(seed, alpha_bar):
    z, noise, a = random(seed, 2, 4, 3, 3), random(seed + 1, 2, 4, 3, 3), torch.tensor(alpha_bar)
    assert torch.allclose(predict_x0(add_noise(z, noise, a), noise, a), z, atol=1e-4)


@relaxed
@given(seeds, st.integers(1, 6), st.floats(-2, 2), st.floats(0.1, 8))
def test_folding_twice_in_halves_is_folding_once(seed, rank, strength, scale):
    tensors = {"0.lora_A.weight": random(seed, rank, 5), "0.lora_B.weight": random(seed + 1, 4, rank)}
    weight = random(seed + 2, 4, 5)

    def fold(weight, strength):
        return folded("0.weight", weight, tensors, scale, strength)

    assert torch.allclose(fold(weight, strength), fold(fold(weight, strength / 2), strength / 2), atol=1e-4)


@relaxed
@given(seeds, st.integers(2, 20), st.integers(2, 20))
def test_an_image_matched_to_itself_is_itself(seed, height, width):
    x = random(seed, 1, 3, height, width).abs()
    assert torch.allclose(adain(x, x), x, atol=1e-5)
    assert torch.allclose(wavelet(x, x), x, atol=1e-5)


@relaxed
@given(seeds, st.integers(4, 20), st.floats(-0.2, 0.2))
def test_adain_moves_the_mean_to_the_references(seed, side, shift):
    sr = random(seed, 1, 3, side, side) * 0.05 + 0.5
    reference = random(seed + 1, 1, 3, side, side) * 0.05 + 0.5 + shift
    out = match_color(sr, reference)
    assert torch.allclose(out.mean((2, 3)), reference.mean((2, 3)), atol=1e-3)

"""What the degradation promises whatever is drawn."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from osediff_core.errors import OSEDiffError
from train.degradation import (
    DegradationConfig,
    FaceConfig,
    FirstStageConfig,
    degrade,
    degrade_to_lq_size,
    kernels,
    sharpen,
)
from train.degradation.face import apply_face_recipe, draw_face_recipe
from train.degradation.filters import filter2d, resize_by
from train.degradation.jpeg import jpeg
from train.degradation.noise import gaussian_noise, poisson_noise
from train.degradation.pipeline import apply_recipe
from train.degradation.recipe import draw_recipe

CONFIG = DegradationConfig()
SIDES = st.integers(3, 10).map(lambda n: 2 * n + 1)
SIGMAS = st.floats(0.2, 3.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_picture(height: int = 48, width: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth colours with some detail, (3, height, width) in [0, 1]."""
    coarse = torch.rand(1, 3, 6, 8, generator=seeded(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]


@settings(deadline=None, max_examples=20)
@given(size=SIDES, x=SIGMAS, y=SIGMAS, theta=st.floats(-3.14, 3.14), beta=st.floats(0.5, 4.0))
def test_gaussian_like_kernels_weigh_and_are_point_symmetric(size, x, y, theta, beta):
    for kernel in (
        kernels.gaussian(size, x, y, theta),
        kernels.generalized_gaussian(size, x, y, theta, beta),
        kernels.plateau(size, x, y, theta, beta),
    ):
        assert kernel.shape == (size, size)
        assert kernel.dtype == torch.float64
        assert abs(kernel.sum().item() - 1) < 1e-12
        assert kernel.min() >= 0
        assert (kernel - kernel.flip(0, 1)).abs().max() < 1e-12


def test_generalized_gaussian_at_one_is_the_gaussian():
    a = kernels.generalized_gaussian(15, 2.0, 0.7, 0.4, 1.0)
    assert torch.allclose(a, kernels.gaussian(15, 2.0, 0.7, 0.4), atol=1e-15)
    assert not torch.allclose(a, kernels.plateau(15, 2.0, 0.7, 0.4, 1.0), atol=1e-3)


def test_sinc_passes_below_the_cutoff_and_stops_above():
    spectrum = torch.fft.fft2(kernels.sinc(21, 1.5), s=(63, 63)).abs()  # bin k is 2 pi k / 63 per pixel
    assert spectrum[0, :11].min() > 0.8  # up to 1.0
    assert spectrum[0, 22:32].max() < 0.2  # from 2.2


@settings(deadline=None, max_examples=25)
@given(height=st.integers(1, 12), width=st.integers(1, 12), size=SIDES)
def test_filter_accepts_pictures_smaller_than_the_kernel(height, width, size):
    flat = torch.full((3, height, width), 0.3)
    out = filter2d(flat, kernels.gaussian(size, 2.0, 2.0))
    assert out.shape == flat.shape
    assert (out - 0.3).abs().max() < 1e-6


def test_filter_mirrors_to_and_fro():
    """Against numpy's reflection, which repeats itself where a picture is short."""
    image = torch.rand(3, 4, 7, generator=seeded())
    kernel = kernels.gaussian(21, 3.0, 1.0, 0.5)
    padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (10, 10), (10, 10)), mode="reflect"))
    wanted = torch.nn.functional.conv2d(padded[:, None].double(), kernel[None, None])[:, 0]
    assert (filter2d(image, kernel) - wanted).abs().max() < 1e-6


def test_resize_never_gives_an_empty_picture():
    assert resize_by(torch.rand(3, 4, 3), 0.15, "bicubic").shape == (3, 1, 1)


def test_gaussian_noise_has_its_deviation_and_grey_is_grey():
    flat = torch.full((3, 200, 200), 0.5)
    noise = 255 * (gaussian_noise(flat, 20, False, seeded()) - 0.5)
    assert noise.std().item() == pytest.approx(20, rel=0.02)
    assert abs(torch.corrcoef(noise.flatten(1))[0, 1]) < 0.03
    grey = gaussian_noise(flat, 20, True, seeded())
    assert torch.equal(grey[0], grey[1])
    assert 255 * grey[0].std().item() == pytest.approx(20, rel=0.02)


@pytest.mark.parametrize("grey", [False, True])
def test_poisson_noise_grows_with_the_root_of_the_signal(grey):
    """256 different values count 256 photons at 1, so that the variance is signal / 256."""
    ramp = (torch.arange(256.0) / 255).view(1, 1, 256).expand(3, 400, 256)
    noise = poisson_noise(ramp, 0.5, grey, seeded()) - ramp
    for column in (64, 128):
        wanted = 0.5 * (column / 255 / 256) ** 0.5
        assert noise[0, :, column].std().item() == pytest.approx(wanted, rel=0.15)
    assert torch.equal(noise[:, :, 100][0], noise[:, :, 100][1]) == grey


def test_poisson_noise_of_a_flat_picture_counts_one_photon():
    """One value means 2^0 photons: the published rule, however coarse."""
    noisy = poisson_noise(torch.full((3, 64, 64), 51 / 255), 1.0, False, seeded())
    assert set(noisy.mul(10).round().unique().tolist()) <= {0.0, 10.0}
    assert noisy.mean().item() == pytest.approx(0.2, abs=0.03)


def test_jpeg_loses_more_at_a_lower_quality():
    image = some_picture()
    errors = [(jpeg(image, quality) - image).square().mean().item() for quality in (95, 60, 30)]
    assert errors[0] < errors[1] < errors[2] < 0.01


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**31), height=st.integers(16, 70), width=st.integers(16, 70))
def test_the_lq_is_an_8_bit_picture_of_the_right_size(seed, height, width):
    hq = some_picture(height, width)
    lq = degrade(hq, CONFIG, seeded(seed))
    small = degrade_to_lq_size(hq, CONFIG, seeded(seed))
    assert lq.shape == hq.shape
    assert small.shape == (3, height // 4, width // 4)
    for picture in (lq, small):
        levels = picture * 255
        assert picture.dtype == torch.float32
        assert (levels - levels.round()).abs().max() < 1e-4
        assert 0 <= levels.min() <= levels.max() <= 255


def test_everything_comes_from_the_one_generator():
    hq = some_picture()
    states = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())
    first = degrade(hq, CONFIG, seeded(5))
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    torch.manual_seed(1)
    assert torch.equal(degrade(hq, CONFIG, seeded(5)), first)
    assert not torch.equal(degrade(hq, CONFIG, seeded(6)), first)


def test_both_forms_show_the_same_lq():
    """The enlarged form is the small one, enlarged: shrunk again by averages it comes back, nearly."""
    hq = some_picture(128, 128)
    near, far = [], []
    for seed in range(8):
        back = torch.nn.functional.avg_pool2d(degrade(hq, CONFIG, seeded(seed)), 4)
        near.append((back - degrade_to_lq_size(hq, CONFIG, seeded(seed))).abs().mean().item())
        far.append((back - degrade_to_lq_size(hq, CONFIG, seeded(seed + 1))).abs().mean().item())
    assert sum(near) < 0.25 * sum(far)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (50, 71)])
def test_a_spared_picture_is_shrunk_and_nothing_else(height, width):
    spared, hq = DegradationConfig(shrink_only_prob=1.0), some_picture(height, width)
    pixels = hq.mul(255).round().byte()
    lq = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(
        (width // 4, height // 4), Image.Resampling.BICUBIC
    )
    back = lq.resize((width, height), Image.Resampling.BICUBIC)
    for made, want in ((degrade_to_lq_size, lq), (degrade, back)):
        levels = made(pixels / 255, spared, seeded()) * 255
        wanted = torch.from_numpy(np.array(want)).permute(2, 0, 1).float()
        assert levels.shape == wanted.shape
        assert (levels - levels.round()).abs().max() < 1e-4
        assert (levels - wanted).abs().max() <= 2.01
        assert (made(hq, CONFIG, seeded()) * 255 - wanted).abs().max() > 5  # degraded, it is another picture
    with pytest.raises(OSEDiffError, match="at least 16 pixels"):
        degrade(torch.rand(3, 15, 64), spared, seeded())


def test_pictures_are_spared_as_often_as_asked_and_both_forms_spare_the_same():
    always, quarter = DegradationConfig(shrink_only_prob=1.0), DegradationConfig(shrink_only_prob=0.25)
    hq = some_picture(16, 16)

    def spared(make):
        return [torch.equal(make(hq, quarter, seeded(n)), make(hq, always, seeded(n))) for n in range(400)]

    assert spared(degrade) == spared(degrade_to_lq_size)
    assert 70 < sum(spared(degrade)) < 130  # binomial: 100 +- 3.5 deviations


def test_sparing_none_leaves_the_published_draws_alone():
    hq = some_picture()
    assert torch.equal(
        degrade(hq, DegradationConfig(shrink_only_prob=0.0), seeded(3)), degrade(hq, CONFIG, seeded(3))
    )
    hardly = DegradationConfig(shrink_only_prob=1e-9)  # asks the generator, and spares nothing
    assert not torch.equal(degrade(hq, hardly, seeded(3)), degrade(hq, CONFIG, seeded(3)))


def test_the_input_is_left_alone():
    hq = some_picture()
    kept = hq.clone()
    for seed in range(6):
        degrade(hq, CONFIG, seeded(seed))
    assert torch.equal(hq, kept)


def test_the_recipe_follows_the_published_probabilities():
    generator, count = seeded(), 1500
    recipes = [draw_recipe(CONFIG, generator) for _ in range(count)]

    def share(what) -> float:
        return sum(map(what, recipes)) / count

    def near(probability: float):
        return pytest.approx(probability, abs=4 * (probability * (1 - probability) / count) ** 0.5)

    assert share(lambda r: r.first.kernel is not None) == 1
    assert share(lambda r: r.second.kernel is not None) == near(0.8)
    assert share(lambda r: r.first.kernel.min() < 0) == near(0.1)  # sinc
    assert share(lambda r: r.sinc is not None) == near(0.8)
    assert share(lambda r: r.first.scale > 1) == near(0.2)
    assert share(lambda r: r.first.scale < 1) == near(0.7)
    assert share(lambda r: r.second.scale > 1) == near(0.3)
    assert share(lambda r: r.second.scale == 1) == near(0.3)
    assert share(lambda r: r.first.noise.gaussian) == near(0.5)
    assert share(lambda r: r.second.noise.grey) == near(0.4)
    assert share(lambda r: r.jpeg_last) == near(0.5)
    assert share(lambda r: r.lq_mode == "area") == near(1 / 3)
    assert share(lambda r: r.first.quality < 62.5) == near(0.5)
    assert min(r.second.quality for r in recipes) >= 30
    assert max(r.second.noise.strength for r in recipes if not r.second.noise.gaussian) <= 2.5
    assert {r.first.kernel.shape[0] for r in recipes} == set(range(7, 22, 2))


def test_a_gentle_configuration_leaves_the_picture_nearly_alone():
    """Every knob reaches its operation: all of them turned down, little is lost."""
    mild = {
        "sinc_prob": 0.0,
        "kernel_probs": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        "blur_sigma": (0.2, 0.2),
        "resize_probs": (0.0, 0.0, 1.0),
        "gaussian_noise_prob": 1.0,
        "noise_sigma": (0.0, 0.0),
        "jpeg_quality": (100.0, 100.0),
    }
    config = DegradationConfig(
        scale=1, final_sinc_prob=0.0, first=FirstStageConfig(**mild), second=type(CONFIG.second)(**mild)
    )
    hq = some_picture()
    assert (degrade(hq, config, seeded()) - hq).abs().mean() < 0.015  # what subsampled chroma costs
    assert (degrade(hq, CONFIG, seeded()) - hq).abs().mean() > 0.03


def test_the_last_jpeg_and_low_pass_change_places():
    hq = some_picture()
    recipe = draw_recipe(CONFIG, seeded(4))
    swapped = type(recipe)(**{**vars(recipe), "jpeg_last": not recipe.jpeg_last})
    assert not torch.equal(apply_recipe(hq, recipe, 4, seeded()), apply_recipe(hq, swapped, 4, seeded()))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DegradationConfig(kernel_size=(7, 20)), "kernel_size"),
        (lambda: DegradationConfig(scale=0), "scale"),
        (lambda: DegradationConfig(final_sinc_prob=1.1), "final_sinc_prob"),
        (lambda: DegradationConfig(shrink_only_prob=-0.1), "shrink_only_prob"),
        (lambda: FirstStageConfig(noise_sigma=(30.0, 1.0)), "noise_sigma"),
        (lambda: FirstStageConfig(blur_sigma=(0.0, 1.0)), "blur_sigma"),
        (lambda: FirstStageConfig(jpeg_quality=(0.0, 95.0)), "jpeg_quality"),
        (lambda: FirstStageConfig(resize_probs=(0.0, 0.0, 0.0)), "resize_probs"),
        (lambda: degrade(torch.rand(1, 3, 32, 32), CONFIG, seeded()), "(3, H, W)"),
        (lambda: degrade(torch.rand(3, 15, 64), CONFIG, seeded()), "at least 16 pixels"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(OSEDiffError) as caught:
        make()
    assert words in str(caught.value)


FACE = DegradationConfig(kind="face")


def test_face_draws_follow_the_published_distribution():
    recipes = [draw_face_recipe(FACE.face, seeded(seed)) for seed in range(2000)]
    for values, low, high in (
        ([r.shrink for r in recipes], 1, 30),
        ([r.noise for r in recipes], 0, 20),
        ([r.quality for r in recipes], 30, 99.5),  # cut off, so 100 is never reached
    ):
        drawn = torch.tensor(values, dtype=torch.float64)
        assert low <= drawn.min()
        assert drawn.max() <= high
        assert abs(drawn.mean() - (low + high) / 2) < 4 * drawn.std() / 2000**0.5 + 0.5 * (high == 99.5)
        assert abs(drawn.std() - (high - low) / 12**0.5) < 0.05 * (high - low)
    isotropic = [bool((r.kernel - r.kernel.T).abs().max() < 1e-12) for r in recipes]
    assert abs(sum(isotropic) / 2000 - 0.5) < 0.05
    assert recipes[0].kernel.shape == (41, 41)
    assert all(isinstance(r.quality, int) for r in recipes)


def test_face_degradation_is_seeded_keeps_the_size_and_is_not_rounded():
    hq = some_picture()
    a, b, c = (degrade(hq, FACE, seeded(seed)) for seed in (1, 1, 2))
    assert a.shape == hq.shape
    assert 0 <= a.min() <= a.max() <= 1
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert ((a * 255) - (a * 255).round()).abs().max() > 0.1
    with pytest.raises(OSEDiffError, match="no LQ size"):
        degrade_to_lq_size(hq, FACE, seeded())


def test_each_part_of_the_face_degradation_acts():
    hq = some_picture(64, 64)
    mild = FaceConfig(blur_sigma=(0.01, 0.01), shrink=(1, 1), noise_sigma=(0, 0), jpeg_quality=(99, 99))
    changes = {"blur_sigma": (3, 3), "shrink": (4, 4), "noise_sigma": (20, 20), "jpeg_quality": (5, 5)}

    def far(config: FaceConfig) -> float:
        return (degrade(hq, DegradationConfig(kind="face", face=config), seeded()) - hq).abs().mean().item()

    assert far(mild) < 0.01
    for name, value in changes.items():
        assert far(FaceConfig(**{**mild.__dict__, name: value})) > 1.3 * far(mild), name


def test_a_face_may_shrink_to_a_pixel():
    config = FaceConfig(shrink=(29.0, 30.0))
    recipe = draw_face_recipe(config, seeded())
    assert apply_face_recipe(some_picture(20, 50), recipe, seeded()).shape == (3, 1, 1)


@pytest.mark.parametrize(
    "settings",
    [{"kernel_size": 40}, {"isotropic_prob": 2.0}, {"blur_sigma": (0.0, 1.0)}, {"shrink": (0.5, 2.0)}],
)
def test_senseless_face_settings_are_refused(settings):
    with pytest.raises(OSEDiffError, match=next(iter(settings))):
        FaceConfig(**settings)


def test_sharpening_leaves_flat_areas_and_steepens_edges():
    flat = torch.full((3, 40, 40), 0.4)
    assert (sharpen(flat) - flat).abs().max() < 1e-6
    step = torch.full((3, 40, 40), 0.3)
    step[:, :, 20:] = 0.7
    out = sharpen(step)
    assert out[0, 20, 19] < 0.29
    assert out[0, 20, 20] > 0.71
    assert 0 <= out.min() <= out.max() <= 1

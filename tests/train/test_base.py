"""The small base: its parts start and end as they should, and the folder loads like any other base."""

from __future__ import annotations

import dataclasses
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from osediff_core import OSEDiff, OSEDiffError
from osediff_core.base.folder import write_network
from osediff_core.pictures.images import write_image
from train.base import norms
from train.base.crops import draw_crop, load_pictures
from train.base.fit import Keep, fit, learning_rate_factor
from train.base.linear import start_linear
from train.base.prior import PriorConfig, build_unet
from train.base.run import BaseConfig, PicturesConfig, train_prior, train_vae
from train.base.text import load_tokenizer, write_tokenizer
from train.base.vae import VaeConfig, build_vae, encode_mean, vae_loss
from train.data.crops import vary_colour

SMALL_VAE = VaeConfig(widths=(8, 8), latent_channels=4, linear_start=False, crop=32, batch=2, steps=3)
SMALL_PRIOR = PriorConfig(
    widths=(16, 16), norm_groups=2, text_width=8, text_layers=1, crop=32, batch=2, steps=2
)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for name in ("photo_a", "photo_b", "leaves_0"):
        write_image(folder / f"{name}.png", torch.rand(1, 3, 64, 72, generator=generator))
    return folder


def test_the_untrained_unet_passes_its_input_through():
    torch.manual_seed(0)
    config = PriorConfig()
    unet = build_unet(config, latent_channels=8, sample_size=16).eval()
    for scale in (1.0, 0.1):  # flat pictures too: the norms must not blow them up
        z = scale * torch.randn(1, 8, 16, 16)
        with torch.no_grad():
            eps = unet(z, torch.tensor([999]), torch.zeros(1, 77, config.text_width))
        assert (eps - z).std() < 0.05 * z.std()
    plain = type(unet)(unet.config).eval()  # the control: PyTorch's own start
    with torch.no_grad():
        eps = plain(z, torch.tensor([999]), torch.zeros(1, 77, config.text_width))
    assert (eps - z).std() > 0.5 * z.std()


def test_the_untrained_unet_keeps_levels_whatever_else_is_in_the_picture(monkeypatch):
    config, worst = PriorConfig(), {}
    z = torch.randn(6, 6, 16, 16, generator=seeded(2)) * 0.3
    z[..., :8] += 2 * torch.randn(6, 6, 1, 1, generator=seeded(3))  # one half is anything
    z[..., 8:] += torch.tensor([-1.5, 0.5, 0.0, 0.0, 0.0, 0.0]).view(1, 6, 1, 1)  # the other always the same
    for constant in (norms.ANCHOR, norms.ANCHOR / 8):
        monkeypatch.setattr(norms, "ANCHOR", constant)
        torch.manual_seed(0)
        unet = build_unet(config, latent_channels=6, sample_size=16).eval()
        with torch.no_grad():
            eps = unet(z, torch.full((6,), 999), torch.zeros(6, 77, config.text_width))
        worst[constant] = (eps - z)[..., 8:].mean((2, 3)).abs().max()
    kept, control = worst.values()
    assert kept < 0.03
    assert control > 0.2, "control: with small constants the norms take the picture's own level away"


def test_a_unet_too_narrow_to_begin_so_says_what_it_needs():
    with pytest.raises(OSEDiffError, match=r"32 or more, a multiple of 16.*got 24"):
        build_unet(PriorConfig(widths=(24, 64)), latent_channels=6, sample_size=16)


def test_the_untrained_vae_keeps_the_level_of_flat_pictures():
    torch.manual_seed(0)
    vae = build_vae(SMALL_VAE).eval()
    with torch.no_grad():
        dark, bright = (encode_mean(vae, torch.full((1, 3, 32, 32), v)) for v in (-0.8, 0.8))
    assert (dark - bright).abs().mean() > 1e-2


def smooth_pictures(seed):
    """Two noisy pictures that a 3x3 blur has made a little smoother, in [-1, 1], of low saturation."""
    grey, tint = (
        torch.randn(2, 1, 66, 66, generator=seeded(seed)),
        torch.randn(2, 3, 66, 66, generator=seeded(9)),
    )
    return (nn.functional.avg_pool2d(grey + 0.3 * tint, 3, 1)).clamp(-1, 1)


def error_of(vae, x):
    with torch.no_grad():
        return (vae.decode(encode_mean(vae, x)) - x).square().mean() / x.square().mean()


def test_the_linear_start_reconstructs_pictures_that_it_has_not_seen():
    torch.manual_seed(0)
    vae = build_vae(VaeConfig())
    unseen = smooth_pictures(1)
    before = error_of(vae, unseen)
    x = smooth_pictures(0)
    start_linear(vae, torch.cat([x, 0.3 * x + 0.6, 0.3 * x - 0.6]))
    assert error_of(vae, unseen) < 0.1 < before
    assert error_of(vae, 0.1 * unseen + 0.7) < 0.02  # flat and bright: its level survives the norms


def tone_error(vae, surroundings):
    """Worst error, in levels, of the tone of a dark violet square with these colours around it."""
    violet = torch.tensor([-0.76, -0.6, -0.36]).view(1, 3, 1, 1)
    x = torch.tensor(surroundings).view(-1, 3, 1, 1).repeat(1, 1, 64, 64)
    x[..., 16:48, 16:48] = violet
    with torch.no_grad():
        y = vae.decode(encode_mean(vae, x))
    return 127.5 * (y - violet)[..., 24:40, 24:40].mean((2, 3)).abs().max()


def test_the_linear_start_keeps_tones_whatever_else_is_in_the_picture(monkeypatch):
    x = smooth_pictures(0)
    saturated = torch.tensor([0.6, -0.6, 0.0]).view(3, 1, 1)
    start_from = torch.cat([x, 0.3 * x + 0.6, 0.3 * x - 0.6, *(x + saturated.roll(k, 0) for k in range(3))])
    around = [[0.5, 0.5, 0.5], [-0.9, -0.9, -0.9], [0.4, -0.4, -0.4], [-0.4, 0.2, 0.5]]
    worst = {}
    for constant in (norms.ANCHOR, norms.ANCHOR / 8):
        monkeypatch.setattr(norms, "ANCHOR", constant)
        torch.manual_seed(0)
        vae = build_vae(VaeConfig())
        start_linear(vae, start_from)
        worst[constant] = tone_error(vae, around)
    kept, control = worst.values()
    assert kept < 5
    assert control > 10, "control: with small constants the norms take the picture's own level away"


def test_the_linear_start_leaves_the_means_of_norms_alone():
    norm = nn.GroupNorm(4, 32)
    rows = norms.paired_rows(6, norm)
    assert len(set(rows)) == 12
    assert max(rows) < 32
    assert [row // 8 for row in rows[:6]] == [row // 8 for row in rows[6:]]


@pytest.mark.parametrize("config", [SMALL_VAE, VaeConfig(widths=(16, 36)), VaeConfig(latent_channels=8)])
def test_the_linear_start_says_what_it_needs(config):
    with pytest.raises(OSEDiffError, match="linear_start = false"):
        start_linear(build_vae(config), torch.rand(1, 3, 32, 32))


def test_every_byte_has_a_token(tmp_path):
    write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer(["", "fête, 猫"], padding="max_length", max_length=77)["input_ids"]
    assert ids[0][:3] == [512, 513, 0]
    assert tokenizer.unk_token_id not in ids[1][1 : ids[1].index(513)]
    assert len(ids[1]) == 77


def test_crops_have_the_size_and_come_from_the_generator(pictures):
    picture = load_pictures(pictures)[0][1]
    first, again = (vary_colour(draw_crop(picture, g, 32), g) for g in map(seeded, (1, 1)))
    other = draw_crop(picture, seeded(2), 32)
    assert first.shape == (3, 32, 32)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0 <= first.min() <= first.max() <= 1


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_fit_lowers_the_loss_and_leaves_the_average():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    x = torch.randn(64, 4)
    y = x.sum(1, keepdim=True)
    losses = []

    def loss_of(step):
        return (model(x) - y).square().mean()

    fit(
        model, loss_of, [{"params": list(model.parameters()), "lr": 0.05}], 200, lambda _, v: losses.append(v)
    )
    assert losses[-1] < 0.05 * losses[0]
    assert 0 < loss_of(0).item() != losses[-1]  # the averaged weights are not the last ones


class KilledError(Exception):
    pass


def fit_a_line(file, killed_after=None, what="a line", pictures="noise"):
    """Fit 3 numbers to noise for 8 steps; returns them and the losses that were reported."""
    torch.manual_seed(0)
    model, generator, losses = nn.Linear(3, 1), seeded(0), []

    def report(step, loss):
        losses.append(loss)
        if step + 1 == killed_after:
            raise KilledError

    def loss_of(step):
        return (model(torch.randn(4, 3, generator=generator)) - 1).square().mean()

    groups = [{"params": list(model.parameters()), "lr": 0.1}]
    fit(
        model,
        loss_of,
        groups,
        8,
        report,
        Keep(file, generator, {"settings": what, "pictures": pictures}, every=2),
    )
    return model.weight.detach(), losses


def test_fit_goes_on_where_it_was_killed(tmp_path):
    whole, losses = fit_a_line(tmp_path / "a.pt")
    with pytest.raises(KilledError):
        fit_a_line(tmp_path / "b.pt", killed_after=5)
    resumed, rest = fit_a_line(tmp_path / "b.pt")
    assert rest == losses[4:]  # step 5 was lost, its noise is drawn again
    assert torch.equal(resumed, whole)


def test_fit_does_not_go_on_with_another_training(tmp_path):
    with pytest.raises(KilledError):
        fit_a_line(tmp_path / "a.pt", killed_after=3)
    with pytest.raises(OSEDiffError, match=r"with other settings: .*delete it"):
        fit_a_line(tmp_path / "a.pt", what="a parabola")
    with pytest.raises(OSEDiffError, match=r"with other pictures: .*delete it"):
        fit_a_line(tmp_path / "a.pt", pictures="more noise")


def test_fit_names_a_damaged_file(tmp_path):
    file = tmp_path / "a.pt"
    with pytest.raises(KilledError):
        fit_a_line(file, killed_after=3)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(OSEDiffError, match=r"a\.pt is damaged .*delete it"):
        fit_a_line(file)


@pytest.mark.slow
def test_an_unfinished_base_is_not_gone_on_with_from_other_pictures(tmp_path, pictures, monkeypatch):
    """Nor is a prior on the latents of another VAE. Where the pictures lie does not matter."""
    config = BaseConfig(
        out=str(tmp_path / "base"), bf16=False, pictures=PicturesConfig(folder=str(pictures), shrink=()),
        vae=SMALL_VAE, prior=SMALL_PRIOR,
    )  # fmt: skip
    train_vae(config)

    def killed(part, steps, step, loss):
        if step == 1:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("train.base.run.log_progress", killed)
        patch.setattr("train.base.run.Keep", partial(Keep, every=1))
        for train in (train_vae, train_prior):
            with pytest.raises(KilledError):
                train(config)
    moved = pictures.rename(tmp_path / "moved")
    there = dataclasses.replace(config, pictures=PicturesConfig(folder=str(moved), shrink=()))
    shutil.copytree(tmp_path / "base", tmp_path / "control")
    for train in (train_vae, train_prior):
        train(dataclasses.replace(there, out=str(tmp_path / "control")))
    write_image(moved / "photo_b.png", torch.rand(1, 3, 64, 72))
    vae = build_vae(SMALL_VAE)
    write_network(tmp_path / "base" / "vae", vae)
    with pytest.raises(OSEDiffError, match="with other pictures: "):
        train_vae(there)
    with pytest.raises(OSEDiffError, match="with other pictures and other VAE: "):
        train_prior(there)


def test_fit_stops_at_a_loss_that_is_no_number():
    model = nn.Linear(1, 1)
    with pytest.raises(OSEDiffError, match="step 0"):
        fit(
            model,
            lambda _: model(torch.full((1, 1), torch.nan)).sum(),
            [{"params": list(model.parameters()), "lr": 1.0}],
            3,
            print,
        )


def test_the_learning_rate_rises_then_falls():
    factors = [learning_rate_factor(i / 100) for i in range(101)]
    assert max(factors) == pytest.approx(1, abs=0.01)
    assert 0 < factors[0] < 0.01
    assert factors[-1] == pytest.approx(0, abs=1e-6)


def test_the_vae_loss_sees_a_tint():
    torch.manual_seed(0)
    vae = build_vae(SMALL_VAE)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    noise = torch.zeros(1, 4, 16, 16)
    weak, strong = (dataclasses.replace(SMALL_VAE, pooled_weight=w) for w in (0.0, 4.0))
    assert vae_loss(vae, x, noise, strong) > vae_loss(vae, x, noise, weak)


def as_diffusers_loads(folder):
    """The tensors of a network as diffusers itself reads its folder."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    kind = UNet2DConditionModel if folder.name == "unet" else AutoencoderKL
    return kind.from_pretrained(folder).state_dict()


def test_a_vae_to_go_on_from_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(OSEDiffError, match="no VAE in the diffusers layout"):
        build_vae(dataclasses.replace(SMALL_VAE, start_from=str(tmp_path / "nowhere")))


def test_the_folder_is_a_base_like_any_other(tmp_path, pictures):
    config = BaseConfig(
        out=str(tmp_path / "base"),
        bf16=False,
        pictures=PicturesConfig(folder=str(pictures), shrink=(0.5,)),
        vae=SMALL_VAE,
        prior=SMALL_PRIOR,
    )
    train_vae(config)
    train_prior(config)
    model = OSEDiff.from_pretrained(tmp_path / "base", dtype="float32", device="cpu")
    assert model.reduction == 2
    assert model.latent_channels == 4
    sr, _ = model(torch.rand(1, 3, 16, 16), model.encode_prompt(["photograph"]))
    assert sr.shape == (1, 3, 16, 16)
    for part, ours in (("vae", model.vae), ("unet", model.unet)):
        theirs = as_diffusers_loads(tmp_path / "base" / part)
        assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.state_dict().items())
    on = build_vae(dataclasses.replace(SMALL_VAE, start_from=str(tmp_path / "base" / "vae")))
    assert all(torch.equal(tensor, model.vae.state_dict()[name]) for name, tensor in on.state_dict().items())
    assert on.config == dataclasses.replace(model.vae.config, scaling_factor=1.0)
    assert all(parameter.requires_grad for parameter in on.parameters())
    again = BaseConfig(**{**vars(config), "out": str(tmp_path / "again")})
    train_vae(again)
    first, second = (
        (p / "vae/diffusion_pytorch_model.safetensors").read_bytes()
        for p in (tmp_path / "base", tmp_path / "again")
    )
    assert first == second  # the same seed gives the same base
    assert not list(tmp_path.rglob("*unfinished*"))


def test_a_base_is_not_trained_on_what_cannot_be_seen(tmp_path):
    pixels = np.full((40, 40, 4), 255, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert load_pictures(tmp_path)[0][1].shape == (3, 40, 40)
    pixels[3, 4, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(OSEDiffError, match="is transparent in parts"):
        load_pictures(tmp_path)

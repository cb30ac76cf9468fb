import copy
from dataclasses import replace

import pytest
import torch

from osediff_core import OSEDiff
from osediff_core.errors import OSEDiffError
from osediff_core.network.config import VAEConfig
from osediff_core.network.unet import UNet
from osediff_core.network.vae import VAE


def image(*size, batch=1):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(3))


def test_geometry_comes_from_the_vae(model):
    assert (model.reduction, model.latent_channels, model.scaling_factor) == (8, 4, 0.18215)
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)


@torch.no_grad()
def test_any_reduction_and_latent_width_works(model):
    torch.manual_seed(0)
    unet = UNet(replace(model.unet.config, in_channels=8, out_channels=8))
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    vae = VAE(VAEConfig(block_out_channels=(8, 8, 16), latent_channels=8, norm_num_groups=4, **blocks))
    other = OSEDiff(unet, vae, model.text_encoder, model.tokenizer, model.alphas_cumprod)
    assert (other.reduction, other.latent_channels) == (4, 8)
    sr, z = other(image(12, 20), other.encode_prompt([""]))
    assert sr.shape == (1, 3, 12, 20)
    assert z.shape == (1, 8, 3, 5)


@torch.no_grad()
def test_forward_is_the_unrolled_steps(model):
    lq, embeds = image(16, 24, batch=2), model.encode_prompt(["a cat", "a tree"])
    sr, z_hq = model(lq, embeds)
    z = model.encode(lq)
    expected = model.predict_x0(z, model.predict_noise(z, embeds))
    assert torch.equal(z_hq, expected)
    assert torch.equal(sr, model.decode(expected))
    assert sr.dtype == torch.float32
    assert 0 <= sr.min() < sr.max() <= 1


@torch.no_grad()
def test_encode_is_deterministic_unless_noise_is_given(model):
    lq = image(16, 16)
    z = model.encode(lq)
    assert torch.equal(z, model.encode(lq))
    noise = torch.ones_like(z)
    assert torch.allclose(z + (z - model.encode(lq, -noise)), model.encode(lq, noise), atol=1e-6)
    assert not torch.allclose(z, model.encode(lq, noise), atol=1e-3)


@torch.no_grad()
def test_one_prompt_serves_a_batch(model):
    z = model.encode(image(16, 16, batch=3))
    one, three = model.encode_prompt(["a cat"]), model.encode_prompt(["a cat"] * 3)
    assert torch.allclose(model.predict_noise(z, one), model.predict_noise(z, three), atol=1e-6)
    with pytest.raises(OSEDiffError, match="2 prompts for 3 images"):
        model.predict_noise(z, three[:2])


def test_gradients_reach_the_adapted_layers(model):
    net = copy.deepcopy(model)
    net.unet.conv_in.requires_grad_(True)
    net.vae.encoder.conv_in.requires_grad_(True)
    sr, z_hq = net(image(16, 16), net.encode_prompt(["a cat"]))
    (sr.mean() + z_hq.mean()).backward()
    assert net.unet.conv_in.weight.grad.abs().sum() > 0
    assert net.vae.encoder.conv_in.weight.grad.abs().sum() > 0
    assert net.vae.decoder.conv_in.weight.grad is None


def test_prompts_are_padded_and_cut_to_the_length_of_the_tokenizer(model):
    empty, words, long = (model.encode_prompt([text]) for text in ("", "a cat", "a cat " * 200))
    assert empty.shape == words.shape == long.shape == (1, 77, 16)
    assert torch.equal(long, model.encode_prompt(["a cat " * 300]))
    assert torch.equal(model.encode_prompt("a cat"), words)
    assert not torch.equal(words, empty)


@pytest.mark.parametrize("prompts", [[], [None], ["a", 3]])
def test_prompts_that_are_no_text_are_sentences(model, prompts):
    with pytest.raises(OSEDiffError, match="prompts"):
        model.encode_prompt(prompts)


def test_sides_must_be_multiples_of_the_reduction(model):
    with pytest.raises(OSEDiffError, match="multiples of 8"):
        model.encode(image(16, 20))


def test_a_timestep_outside_the_schedule_is_a_sentence(model):
    parts = (model.unet, model.vae, model.text_encoder, model.tokenizer)
    with pytest.raises(OSEDiffError, match="timestep"):
        OSEDiff(*parts, model.alphas_cumprod, timestep=1000)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_and_keeps_the_schedule_in_float32(model, dtype):
    net = copy.deepcopy(model).to(dtype)
    assert net.alphas_cumprod.dtype == torch.float32
    lq, embeds = image(32, 32), model.encode_prompt(["a cat"])
    sr, z_hq = net(lq, net.encode_prompt(["a cat"]))
    assert sr.dtype == z_hq.dtype == torch.float32
    assert (sr - model(lq, embeds)[0]).abs().mean() < 0.02

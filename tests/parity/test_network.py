"""Our UNet and VAE against diffusers' classes on the same random weights, equal to the bit.

In float32 on the CPU.
"""

import copy
import json
from pathlib import Path

import pytest
import torch

from benchmarks.random_base import empty, random_weights
from benchmarks.reference import as_diffusers
from osediff_core.base.load import DEMO_BASE
from osediff_core.errors import OSEDiffError
from osediff_core.lora import unet_targets, vae_targets
from osediff_core.network.config import UNetConfig, VAEConfig, read_config, write_config
from osediff_core.network.unet import UNet
from osediff_core.network.vae import VAE

TESTS = Path(__file__).parents[1]
SIZES = [(16, 24), (21, 35), (8, 9)]
T = torch.tensor([20, 999])
TEXT = 12  # numbers of a token


def unet_settings(levels, **more):
    """A small UNet that attends in all levels but the last, as Stable Diffusion does."""
    return {
        "block_out_channels": [16, 32, 32, 48][:levels],
        "down_block_types": ["CrossAttnDownBlock2D"] * (levels - 1) + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (levels - 1),
        "cross_attention_dim": TEXT,
        "norm_num_groups": 8,
        **more,
    }


def vae_settings(*widths, **more):
    return {
        "block_out_channels": list(widths),
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "norm_num_groups": 4,
        "sample_size": 64,
        **more,
    }


def stored(folder, part):
    return json.loads((folder / part / "config.json").read_text())


BARE = {"use_quant_conv": False, "use_post_quant_conv": False}
UNETS = {
    "like SD 1": unet_settings(4, attention_head_dim=4),
    "like SD 2": unet_settings(4, attention_head_dim=[2, 4, 4, 8], use_linear_projection=True),
    "two levels, three layers": unet_settings(2, layers_per_block=3, norm_eps=1e-4, attention_head_dim=2),
    "other channels": unet_settings(3, in_channels=6, out_channels=5, layers_per_block=1),
    "the demo's": stored(DEMO_BASE, "unet"),
    "micro": stored(TESTS / "golden_micro" / "tiny_sd", "unet"),
}
VAES = {
    "like SD": vae_settings(8, 16, 16, 16, layers_per_block=2),
    "no attention": vae_settings(8, 16, latent_channels=6, mid_block_add_attention=False),
    "no quant convs": vae_settings(16, 8, layers_per_block=3, **BARE),
    "one level": vae_settings(8),
    "the demo's": stored(DEMO_BASE, "vae"),
    "micro": stored(TESTS / "golden_micro" / "tiny_sd", "vae"),
}


@torch.no_grad()
def randomized(network, seed=0):
    """Give every parameter values of its own, biases and norms too, that keep the scale of what passes."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            parameter.copy_(0.2 * values + name.endswith("weight"))
        else:
            parameter.copy_(values * (parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1))
    return network.eval().requires_grad_(False)


def make_unet(name):
    return randomized(UNet(read_config(UNetConfig, UNETS[name])))


def make_vae(name):
    return randomized(VAE(read_config(VAEConfig, VAES[name])))


def unet_inputs(config, height, width):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, config.in_channels, height, width, generator=generator)
    return z, T, torch.randn(2, 77, config.cross_attention_dim, generator=generator)


def theirs_of(unet, z, t, prompt):
    return as_diffusers(unet)(z, t, encoder_hidden_states=prompt).sample


# ---- the same bits ------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_unet(name, height, width):
    unet = make_unet(name)
    inputs = unet_inputs(unet.config, height, width)
    ours = unet(*inputs)
    assert ours.std() > 0.01
    assert torch.equal(ours, theirs_of(unet, *inputs))


@torch.no_grad()
@pytest.mark.parametrize("name", VAES)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_vae(name, height, width):
    vae = make_vae(name)
    theirs = as_diffusers(vae)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, vae.config.latent_channels, height, width, generator=generator)
    x = torch.randn(2, 3, 2 * height + 1, 2 * width, generator=generator)
    image, moments = vae.decode(z), vae.encode(x)
    assert min(image.std(), moments.std()) > 0.01
    assert torch.equal(image, theirs.decode(z).sample)
    assert torch.equal(moments, theirs.encode(x).latent_dist.parameters)


@pytest.mark.parametrize("name", UNETS)
def test_gradients_of_the_unet(name):
    unet = make_unet(name)
    theirs = as_diffusers(unet)
    z, t, prompt = unet_inputs(unet.config, 16, 24)
    for network in (unet.requires_grad_(True), theirs.requires_grad_(True)):
        out = network(z, t, prompt)
        (out if network is unet else out.sample).square().sum().backward()
    expected = {key: parameter.grad for key, parameter in theirs.named_parameters()}
    for key, parameter in unet.named_parameters():
        assert torch.equal(parameter.grad, expected[key]), key


@pytest.mark.parametrize("name", VAES)
def test_gradients_of_the_vae(name):
    vae = make_vae(name)
    theirs = as_diffusers(vae)
    x = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    mean = vae.requires_grad_(True).encode(x).chunk(2, dim=1)[0]
    vae.decode(mean).square().sum().backward()
    mean = theirs.requires_grad_(True).encode(x).latent_dist.mean
    theirs.decode(mean).sample.square().sum().backward()
    expected = {key: parameter.grad for key, parameter in theirs.named_parameters()}
    for key, parameter in vae.named_parameters():
        assert torch.equal(parameter.grad, expected[key]), key


def test_what_is_drawn_from_the_posterior(model):
    """Also where the variance is beyond what is allowed, and for no noise at all."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    moments = 40 * torch.randn(2, 8, 5, 7, generator=torch.Generator().manual_seed(0))
    assert moments[:, 4:].min() < -30
    assert moments[:, 4:].max() > 20
    noise = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(1))
    posterior = DiagonalGaussianDistribution(moments)
    expected = (posterior.mean + posterior.std * noise) * 0.18215
    assert torch.equal(model.scaled(moments, noise), expected)
    assert torch.equal(model.scaled(moments), posterior.mode() * 0.18215)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("part", ["unet", "vae"])
def test_full_size(part):
    network = empty(part)
    network.load_state_dict(random_weights(part, torch.float32), assign=True)
    network, theirs = network.eval(), as_diffusers(network)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(1, 4, 40, 37, generator=generator)
    if part == "unet":
        prompt = torch.randn(1, 77, 1024, generator=generator)
        ours, expected = network(z, T[1:], prompt), theirs(z, T[1:], prompt).sample
    else:
        x = torch.randn(1, 3, 8 * 40, 8 * 37, generator=generator)
        ours, expected = network.decode(z), theirs.decode(z).sample
        assert torch.equal(network.encode(x), theirs.encode(x).latent_dist.parameters)
    assert ours.std() > 0.01
    assert torch.equal(ours, expected)


# ---- a start from the same seed ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*UNETS, *VAES])
def test_first_weights_of_a_seed(name):
    """A base is trained from what its seed draws (`train.base`)."""
    kind, config, settings = (UNet, UNetConfig, UNETS) if name in UNETS else (VAE, VAEConfig, VAES)
    torch.manual_seed(3)
    ours = kind(read_config(config, settings[name]))
    theirs = as_diffusers(ours)
    torch.manual_seed(3)
    expected = type(theirs).from_config(theirs.config).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in ours.state_dict().items())


# ---- controls -----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("layer", ["conv_in", "mid_block.resnets.0.conv1", "up_blocks.3.resnets.0.conv2"])
def test_control_one_weight_by_a_millionth_is_noticed(layer):
    unet = make_unet("like SD 2")
    inputs = unet_inputs(unet.config, 21, 35)
    expected = theirs_of(unet, *inputs)
    changed = copy.deepcopy(unet)
    weights = changed.get_submodule(layer).weight.view(-1)
    weights[weights.abs().argmax()] *= 1 + 1e-6
    assert (changed.get_submodule(layer).weight != unet.get_submodule(layer).weight).sum() == 1
    assert not torch.equal(changed(*inputs), expected)
    assert torch.equal(unet(*inputs), expected)


@torch.no_grad()
@pytest.mark.parametrize("way", ["encode", "decode"])
def test_control_one_weight_of_the_vae_by_a_millionth_is_noticed(way):
    vae = make_vae("like SD")
    theirs, changed = as_diffusers(vae), copy.deepcopy(vae)
    half = changed.encoder if way == "encode" else changed.decoder
    weights = half.mid_block.attentions[0].to_v.weight.view(-1)
    weights[weights.abs().argmax()] *= 1 + 1e-6
    x = torch.randn(1, 3 if way == "encode" else 4, 40, 48, generator=torch.Generator().manual_seed(1))
    expected = theirs.encode(x).latent_dist.parameters if way == "encode" else theirs.decode(x).sample
    assert not torch.equal(getattr(changed, way)(x), expected)
    assert torch.equal(getattr(vae, way)(x), expected)


@torch.no_grad()
@pytest.mark.parametrize("which", ["attn1", "attn2"])
def test_control_swapped_inputs_of_an_attention_are_noticed(which, monkeypatch):
    """Queries for keys among the pixels, and the prompts of the two pictures for each other."""
    unet = make_unet("like SD 1")
    z, t, prompt = unet_inputs(unet.config, 16, 24)
    expected = theirs_of(unet, z, t, prompt)
    attention = unet.down_blocks[0].attentions[0].transformer_blocks[0].get_submodule(which)
    if which == "attn1":
        attention.to_q, attention.to_k = attention.to_k, attention.to_q
    else:
        forward = attention.forward
        monkeypatch.setattr(attention, "forward", lambda x, context: forward(x, context.flip(0)))
    assert not torch.equal(unet(z, t, prompt), expected)


# ---- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*UNETS, "full size"])
def test_names_and_shapes_of_the_unet(name):
    unet = empty("unet") if name == "full size" else make_unet(name)
    theirs = as_diffusers(unet)
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.shape for key, tensor in unet.state_dict().items()} == shapes
    assert list(unet.state_dict()) == list(theirs.state_dict())  # a base's fingerprint goes by the order
    assert unet_targets(unet) == unet_targets(theirs)
    assert sum(map(len, unet_targets(unet).values())) == (258 if name == "full size" else len(lora_of(unet)))


@pytest.mark.parametrize("name", [*VAES, "full size"])
def test_names_and_shapes_of_the_vae(name):
    vae = empty("vae") if name == "full size" else make_vae(name)
    theirs = as_diffusers(vae)
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.shape for key, tensor in vae.state_dict().items()} == shapes
    assert vae_targets(vae) == vae_targets(theirs)
    assert len(vae_targets(vae)) > 4


def lora_of(unet):
    """The layers that have LoRA, counted another way."""
    kinds = torch.nn.Linear | torch.nn.Conv2d
    return [n for n, m in unet.named_modules() if isinstance(m, kinds) and "time_emb" not in n]


# ---- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNETS)
def test_all_settings_that_diffusers_writes_are_read_and_come_back(name):
    config = read_config(UNetConfig, UNETS[name])
    assert read_config(UNetConfig, dict(as_diffusers(UNet(config)).config)) == config
    assert read_config(UNetConfig, json.loads(json.dumps(write_config(config)))) == config


@pytest.mark.parametrize("name", VAES)
def test_all_settings_of_a_vae_are_read_and_come_back(name):
    config = read_config(VAEConfig, VAES[name])
    assert read_config(VAEConfig, dict(as_diffusers(VAE(config)).config)) == config
    assert read_config(VAEConfig, json.loads(json.dumps(write_config(config)))) == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time_embedding_type": "fourier"}, r"time_embedding_type = 'fourier'"),
        ({"class_embed_type": "timestep"}, r"class_embed_type = 'timestep'"),
        ({"addition_embed_type": "text_time"}, r"addition_embed_type = 'text_time'"),
        ({"transformer_layers_per_block": [1, 2, 10, 10]}, "transformer_layers_per_block"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos = False"),
        ({"downsample_padding": 0}, "downsample_padding = 0"),
        ({"mid_block_type": None}, "mid_block_type = None"),
        ({"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow = 3"),
        ({"down_block_types": ["AttnDownBlock2D"] * 4}, r"down_block_types has 'AttnDownBlock2D'"),
        ({"down_block_types": ["DownEncoderBlock2D"] * 4}, r"down_block_types has 'DownEncoderBlock2D'"),
        ({"up_block_types": ["UpBlock2D"] * 3}, "block_out_channels and up_block_types"),
        ({"attention_head_dim": [2, 4]}, "block_out_channels and heads"),
    ],
)
def test_settings_of_another_network_are_refused_by_name(changes, words):
    with pytest.raises(OSEDiffError, match=words):
        read_config(UNetConfig, UNETS["like SD 2"] | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"act_fn": "relu"}, "act_fn = 'relu'"),
        ({"shift_factor": 0.1159}, "shift_factor = 0.1159"),
        (
            {"down_block_types": ["AttnDownEncoderBlock2D"] * 4},
            "down_block_types has 'AttnDownEncoderBlock2D'",
        ),
        ({"up_block_types": ["CrossAttnUpBlock2D"] * 4}, "up_block_types has 'CrossAttnUpBlock2D'"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "block_out_channels and up_block_types"),
    ],
)
def test_settings_of_another_vae_are_refused_by_name(changes, words):
    with pytest.raises(OSEDiffError, match=words):
        read_config(VAEConfig, VAES["like SD"] | changes)


@pytest.mark.parametrize("upcast", [True, False, None])
def test_where_scores_are_computed_makes_no_other_network(upcast):
    config = read_config(UNetConfig, UNETS["like SD 2"])
    assert read_config(UNetConfig, UNETS["like SD 2"] | {"upcast_attention": upcast}) == config


def test_a_vae_without_a_size_is_written_as_diffusers_reads_it():
    from diffusers import AutoencoderKL

    config = read_config(VAEConfig, {k: v for k, v in VAES["like SD"].items() if k != "sample_size"})
    assert config.sample_size is None
    assert AutoencoderKL.from_config(write_config(config)).config.block_out_channels == (8, 16, 16, 16)

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from osediff_core.errors import OSEDiffError
from osediff_core.lora import lora_delta, unet_targets, vae_targets
from osediff_core.network.config import VAEConfig
from osediff_core.network.vae import VAE

from .folding import fold


def pair(name, a_shape, b_shape):
    return {f"{name}.lora_A.weight": torch.randn(a_shape), f"{name}.lora_B.weight": torch.randn(b_shape)}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.ModuleDict({"conv": nn.Conv2d(3, 5, 3, padding=1), "lin": nn.Linear(6, 7)})


@pytest.fixture
def tensors():
    torch.manual_seed(1)
    return pair("conv", (2, 3, 3, 3), (5, 2, 1, 1)) | pair("lin", (2, 6), (7, 2))


def test_folded_layers_compute_base_plus_low_rank_path(net, tensors):
    image, vector = torch.randn(1, 3, 8, 8), torch.randn(4, 6)
    low = F.conv2d(image, tensors["conv.lora_A.weight"], padding=1)
    conv = net["conv"](image) + 2 * F.conv2d(low, tensors["conv.lora_B.weight"])
    lin = net["lin"](vector) + 2 * vector @ tensors["lin.lora_A.weight"].T @ tensors["lin.lora_B.weight"].T
    fold(net, tensors, scale=2.0)
    assert torch.allclose(net["conv"](image), conv, atol=1e-4)
    assert torch.allclose(net["lin"](vector), lin, atol=1e-4)


def test_strength_goes_from_the_base_to_the_checkpoint(net, tensors):
    before = net["lin"].weight.clone()
    bias = {"lin.bias": torch.full((7,), 3.0)}
    old_bias = net["lin"].bias.clone()
    fold(net, tensors | bias, scale=2.0, strength=0.25)
    delta = lora_delta(tensors["lin.lora_A.weight"], tensors["lin.lora_B.weight"], 2.0, before.shape)
    assert torch.allclose(net["lin"].weight, before + 0.25 * delta)
    assert torch.allclose(net["lin"].bias, old_bias + 0.25 * (3.0 - old_bias))


@pytest.mark.parametrize("backwards", [False, True])
def test_a_layer_trained_in_full_keeps_its_lora_in_any_order_of_the_file(net, tensors, backwards):
    tensors["lin.weight"] = torch.randn(7, 6)
    low_rank = lora_delta(tensors["lin.lora_A.weight"], tensors["lin.lora_B.weight"], 2.0, (7, 6))
    expected = tensors["lin.weight"] + low_rank
    fold(net, dict(sorted(tensors.items(), reverse=backwards)), scale=2.0)
    assert torch.allclose(net["lin"].weight, expected)


def test_half_precision_weights_are_rounded_once(net, tensors):
    expected = net["lin"].weight + lora_delta(
        tensors["lin.lora_A.weight"], tensors["lin.lora_B.weight"], 2.0, net["lin"].weight.shape
    )
    twice = net["lin"].weight.half().float() + expected - net["lin"].weight
    fold(net, tensors, scale=2.0, dtype=torch.float16)
    assert net["lin"].weight.dtype == torch.float16
    assert torch.equal(net["lin"].weight, expected.half())
    assert not torch.equal(net["lin"].weight, twice.half())  # the control: base rounded before folding


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (pair("other", (2, 6), (7, 2)), "other is no layer"),
        (pair("lin", (2, 8), (7, 2)), r"lin.lora_A.weight is \(2, 8\) where the base needs \(2, 6\)"),
        (pair("lin", (2, 6), (9, 2)), r"lin.lora_B.weight is \(9, 2\) where the base needs \(7, 2\)"),
        (pair("lin", (2, 6), (7, 3)), r"\(7, 3\) where the base needs \(7, 2\)"),
        (pair("lin", (2, 6, 1, 1), (7, 2, 1, 1)), "lin.lora_A.weight"),
        ({"lin.bias": torch.zeros(3)}, r"lin.bias is \(3,\) where the base needs \(7,\)"),
        ({"nose.weight": torch.zeros(3)}, "nose.weight is no parameter"),
        ({"lin.lora_A.weight": None}, "lin.lora_B.weight has no lora_A"),
    ],
)
def test_nothing_changes_unless_everything_fits(net, tensors, change, words):
    before = {k: v.clone() for k, v in net.state_dict().items()}
    bad = {k: v for k, v in (tensors | change).items() if v is not None}
    with pytest.raises(OSEDiffError, match=words):
        fold(net, bad, scale=2.0)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_every_linear_layer_and_convolution_but_the_time_embedding_is_a_unet_target(model):
    targets = {name for names in unet_targets(model.unet).values() for name in names}
    layers = {n for n, m in model.unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert targets == {n for n in layers if "time_emb" not in n}


def test_vae_targets_leave_the_decoder_alone_and_do_without_quant_conv(model):
    names = vae_targets(model.vae)
    assert "quant_conv" in names
    assert not [n for n in names if n.startswith("decoder") or "post_quant" in n]
    config = {"block_out_channels": (8,), "latent_channels": 4, "norm_num_groups": 4, "use_quant_conv": False}
    kinds = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    bare = VAE(VAEConfig(**kinds, **config))
    assert "quant_conv" not in vae_targets(bare)
    assert "encoder.conv_in" in vae_targets(bare)

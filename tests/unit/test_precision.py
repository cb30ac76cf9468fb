import copy

import pytest
import torch

from osediff_core.base.load import load_base
from osediff_core.base.precision import convert, exact_dtype
from osediff_core.pipeline.plan import make_plan
from osediff_core.pipeline.run import denoise
from osediff_core.pipeline.runtime import Runtime

HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture(params=HALVES, ids=["float16", "bfloat16"])
def half(request, micro):
    from osediff_core import OSEDiff

    return OSEDiff.from_pretrained(
        micro / "tiny_sd", micro / "osediff.pkl", dtype=request.param, device="cpu"
    )


def test_only_the_end_of_the_unet_stays_in_float32(half):
    exact = {name for name, p in half.named_parameters() if p.dtype == torch.float32}
    assert exact == {
        f"unet.conv_{layer}.{kind}" for layer in ("norm_out", "out") for kind in ("weight", "bias")
    }
    assert half.dtype in HALVES
    assert exact_dtype(half.vae, torch.float16)("decoder.conv_out.weight") == torch.float16


def test_the_exact_layers_are_those_of_the_float32_model_bit_for_bit(half, model):
    assert torch.equal(half.unet.conv_out.weight, model.unet.conv_out.weight)
    assert not torch.equal(half.unet.conv_in.weight.float(), model.unet.conv_in.weight)  # the control


@torch.no_grad()
def test_float32_at_the_end_brings_eps_nearer():
    """On the demo, whose weights are trained: both see one latent and one prompt, the UNet alone differs."""
    from osediff_core import OSEDiff

    exact, half = (OSEDiff.from_pretrained(dtype=d, device="cpu") for d in ("float32", "float16"))
    rounded = copy.deepcopy(half)
    rounded.unet.conv_norm_out.half()
    rounded.unet.conv_out.half()
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    z = exact.encode(torch.nn.functional.interpolate(image, size=(64, 64), mode="bicubic").clamp(0, 1)).half()
    embeds = exact.encode_prompt([""]).half()
    wanted = exact.predict_noise(z.float(), embeds.float())
    error, before = ((net.predict_noise(z, embeds).float() - wanted).norm() for net in (half, rounded))
    print(f"eps in float16: error {error / wanted.norm():.2e}, all rounded {before / wanted.norm():.2e}")
    assert half.predict_noise(z, embeds).dtype == torch.float32
    assert error < 0.9 * before


def test_convert_comes_back_to_the_same_weights(half):
    before = {name: p.clone() for name, p in half.unet.named_parameters()}
    convert(half.unet, torch.float32)
    assert {p.dtype for p in half.unet.parameters()} == {torch.float32}
    convert(half.unet, half.vae.encoder.conv_in.weight.dtype)
    after = dict(half.unet.named_parameters())
    assert all(after[name].dtype == p.dtype and torch.equal(after[name], p) for name, p in before.items())


def test_the_guard_computes_in_float32_and_goes_back(half, caplog):
    """An infinity in half precision: the UNet's values outgrow float16 where weights are large."""
    if half.dtype != torch.float16:
        pytest.skip("bfloat16 reaches as far as float32")
    half.unet.conv_in.weight.data.mul_(3e4)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plan = make_plan(half, 64, 64, runtime=Runtime())
    out = denoise(half, z, half.encode_prompt([""]), plan, Runtime())
    assert "once more in float32" in caplog.text
    assert out.isfinite().all()
    assert half.dtype == torch.float16
    assert half.unet.conv_out.weight.dtype == torch.float32


def test_a_float32_base_has_nothing_to_convert(micro):
    base = load_base(micro / "tiny_sd")
    assert {p.dtype for net in (base.unet, base.vae) for p in net.parameters()} == {torch.float32}

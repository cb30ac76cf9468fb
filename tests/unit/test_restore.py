import copy
import logging

import numpy as np
import pytest
import torch

from osediff_core import OSEDiff, restore
from osediff_core.base.precision import EXACT
from osediff_core.errors import OSEDiffError
from osediff_core.pipeline.plan import make_plan, tile_and_overlap
from osediff_core.pipeline.run import decode, denoise, encode, encode_prompt, finish, prepare
from osediff_core.pipeline.runtime import Runtime
from osediff_core.resize import resize_bicubic


def image(*size, batch=1):
    g = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (batch, 3, *size), generator=g).to(torch.uint8)


def denoised(model, z, embeds, *, detail=1.0, runtime=None, **cut):
    """What the one step makes of latents (B, C, h, w), by a plan of its own."""
    runtime = runtime or Runtime()
    plan = make_plan(model, *(side * model.reduction for side in z.shape[-2:]), runtime=runtime, **cut)
    return denoise(model, z, embeds, plan, runtime, detail)


def prompt_of(model, *texts):
    return encode_prompt(model, texts, Runtime())


def test_the_steps_are_what_restore_does(model):
    lq, runtime = image(9, 7), Runtime()
    plan = make_plan(model, 9, 7, scale=2.5, runtime=runtime)
    x = prepare(lq, plan)
    assert (tuple(x.shape), plan.size, plan.padded) == ((1, 3, 24, 24), (23, 18), (24, 24))
    embeds = encode_prompt(model, ["a cat"], runtime)
    z = denoise(model, encode(model, x, plan, runtime), embeds, plan, runtime)
    by_hand = finish(decode(model, z, plan, runtime), x, plan.size, "wavelet")
    assert torch.equal(by_hand, restore(model, lq, scale=2.5, prompt="a cat", color="wavelet"))


def test_the_same_input_gives_the_same_output(model):
    lq = image(8, 8)
    torch.manual_seed(0)
    first = restore(model, lq)
    assert torch.equal(first, restore(model, lq))
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(0))  # nothing was drawn


def test_a_batch_is_its_images_one_by_one(model):
    lq, prompts = image(8, 10, batch=3), ["a cat", "", "a tree"]
    each = [restore(model, one, prompt=p, scale=2) for one, p in zip(lq.split(1), prompts, strict=True)]
    assert torch.equal(restore(model, lq, prompt=prompts, scale=2), torch.cat(each))
    assert not torch.equal(each[0], restore(model, lq[:1], prompt="", scale=2))


def test_float_and_8_bit_input_agree(model):
    lq = image(8, 8)
    difference = restore(model, lq, scale=1) - restore(model, lq.double() / 255, scale=1)
    assert difference.abs().max() < 1e-4


def test_without_a_match_the_colours_are_the_models_own(model):
    lq = image(16, 16)
    plain, adain = restore(model, lq, color="none"), restore(model, lq, color="adain")
    reference = resize_bicubic(lq, (64, 64)) / 255
    gap = (plain.mean((2, 3)) - reference.mean((2, 3))).abs().max()
    assert (adain.mean((2, 3)) - reference.mean((2, 3))).abs().max() < min(gap, 0.02)


def test_results_are_ordinary_tensors_without_gradients(model):
    out = restore(model, image(4, 4))
    assert not out.requires_grad
    out.mul_(0.5)


@pytest.mark.parametrize("tile", [4, "auto", "off"])
def test_progress_counts_the_stages_of_the_vae_and_the_tiles_of_the_unet(model, tile):
    seen, cut = [], {"tile": tile, "overlap": 1}
    restore(model, image(8, 12, batch=2), **cut, progress=lambda *done: seen.append(done))
    tiles = 2 if tile == 4 else 1  # the latent is 4 x 6
    steps = 2 * (len(model.vae.encoder_stages()) + tiles + len(model.vae.decoder_stages()))
    assert seen == [(i, steps) for i in range(1, steps + 1)]
    plan = make_plan(model, 8, 12, count=2, scale=4, **cut, runtime=Runtime())
    assert plan.steps == steps


@pytest.mark.parametrize("cut", [{"vae": 32}, {"vae": 64, "tile": 4, "overlap": 1}])
def test_after_every_piece_progress_says_again_how_many_steps_are_done(model, cut):
    seen = []
    restore(model, image(16, 20, batch=2), **cut, progress=lambda *at: seen.append(at))
    steps = make_plan(model, 16, 20, count=2, scale=4, **cut, runtime=Runtime()).steps
    done = [at for at, _ in seen]
    assert {total for _, total in seen} == {steps}
    assert done == sorted(done)
    assert set(done) == set(range(steps + 1))
    assert len(done) > 1.3 * steps  # some stages have several pieces
    assert seen[-1] == (steps, steps)


def test_one_runtime_serves_restoration_after_restoration(model):
    seen = []
    runtime = Runtime(lambda *at: seen.append(at))
    first = restore(model, image(8, 12), runtime=runtime)
    once = seen.copy()
    seen.clear()
    assert torch.equal(restore(model, image(8, 12), runtime=runtime), first)
    assert seen == once


def test_progress_may_cancel(model):
    class CancelError(Exception):
        pass

    def cancel(done, total):
        raise CancelError

    with pytest.raises(CancelError):
        restore(model, image(4, 4), progress=cancel)


def test_small_pictures_are_whole_by_default_and_tiled_on_request(model):
    lq = image(8, 16)
    whole = restore(model, lq, tile="off")
    assert torch.equal(restore(model, lq, tile="auto"), whole)
    assert not torch.equal(restore(model, lq, tile=4, overlap=2), whole)


@pytest.mark.parametrize(
    ("reduction", "side", "overlap"), [(8, 96, 32), (16, 96, 32), (4, 192, 64), (2, 384, 128), (1, 768, 256)]
)
def test_the_automatic_tile_is_as_much_of_the_picture_with_every_vae(reduction, side, overlap):
    assert tile_and_overlap("auto", 32, reduction) == (side, overlap)
    assert tile_and_overlap(96, 32, reduction) == (96, 32)
    assert tile_and_overlap("off", 32, reduction) == (None, 32)


def test_a_large_picture_is_tiled_by_default_as_it_is_with_the_automatic_tile(model, monkeypatch):
    monkeypatch.setattr("osediff_core.pipeline.plan.AUTO_TILE", 3)
    lq, f = image(8, 16), 8 // model.reduction
    tiles = restore(model, lq, tile=3 * f, overlap=f)
    assert torch.equal(restore(model, lq, overlap=1), tiles)
    assert not torch.equal(restore(model, lq, tile="off"), tiles)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": 0}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"prompt": ["a", "b"]}, "2 prompts for 1 images"),
        ({"prompt": []}, "0 prompts"),
        ({"prompt": "caf\udce9"}, "halves of letters"),
        ({"color": "hsv"}, "adain, wavelet, none"),
        ({"tile": 0}, "tile"),
        ({"tile": "big"}, "auto, off"),
        ({"tile": True}, "auto, off"),
        ({"tile": 8, "overlap": 8}, "overlap"),
        ({"lq": torch.zeros(1, 3, 8)}, "not empty"),
        ({"lq": torch.zeros(3, 8, 8)}, "not empty"),
        ({"lq": torch.zeros(1, 4, 8, 8)}, "not empty"),
        ({"lq": torch.zeros(1, 3, 0, 8)}, "not empty"),
        ({"lq": torch.zeros(0, 3, 8, 8)}, "not empty"),
        ({"lq": torch.zeros(1, 3, 8, 8, dtype=torch.int16)}, "int16"),
        ({"lq": torch.full((1, 3, 8, 8), 200.0)}, r"\[0, 1\]"),
        ({"lq": torch.tensor(float("nan")).expand(1, 3, 8, 8)}, "NaN"),
        ({"lq": torch.tensor(float("inf")).expand(1, 3, 8, 8)}, "NaN or infinite"),
        ({"lq": np.zeros((1, 3, 8, 8), np.uint8)}, "channels come last"),
        ({"lq": [[0.5]]}, "got list"),
        ({"lq": np.zeros((8, 8, 3)), "alpha": torch.ones(1, 1, 8, 8)}, "of tensors"),
    ],
)
def test_mistakes_are_sentences_before_any_work(model, monkeypatch, change, words):
    arguments = {"lq": image(8, 8), **change}
    monkeypatch.setattr(model, "encode_prompt", None)  # nothing is computed before the mistake is found
    with pytest.raises(OSEDiffError, match=words):
        restore(model, arguments.pop("lq"), **arguments)


def test_embeddings_must_be_as_many_as_latents(model):
    with pytest.raises(OSEDiffError, match="2 prompts for 3"):
        denoised(model, torch.zeros(3, 4, 2, 2), prompt_of(model, "a", "b"))


PARTS = {
    "encoded latent": lambda net: net.vae.encoder.conv_in,
    "predicted noise": lambda net: net.unet.conv_in,
    "decoded image": lambda net: net.vae.decoder.conv_out,
    "prompt embedding": lambda net: net.text_encoder,
}


def break_in_half(module):
    """Let a layer overflow as half precision does, and be right in float32."""

    def overflow(layer, args, out):
        if next(layer.parameters()).dtype == torch.float32:
            return None
        return (out[0] * torch.inf,) if isinstance(out, tuple) or hasattr(out, "keys") else out * torch.inf

    module.register_forward_hook(overflow)


@pytest.mark.parametrize("part", PARTS)
def test_an_overflow_in_half_precision_is_computed_once_more_in_float32(model, part, caplog):
    net = copy.deepcopy(model).to(torch.bfloat16)
    break_in_half(PARTS[part](net))
    with caplog.at_level(logging.WARNING):
        out = restore(net, image(8, 8))
    assert out.isfinite().all()
    assert [r.message for r in caplog.records] == [
        f"the {part} is not finite in bfloat16; computing it once more in float32"
    ]
    exact = {f"unet.{name}." for name in EXACT}
    halves = {n: p.dtype for n, p in net.named_parameters() if not n.startswith(tuple(exact))}
    assert set(halves.values()) == {torch.bfloat16}
    assert (out - restore(model, image(8, 8))).abs().mean() < 0.05


def test_one_tile_that_overflows_costs_no_seam_and_all_tiles_are_checked_at_once(model):
    class Asked(Runtime):
        def finite(self, name, *rest):
            asked.append(name)
            return super().finite(name, *rest)

    net, asked, calls = copy.deepcopy(model).to(torch.bfloat16), [], []
    z, embeds = torch.randn(1, 4, 6, 9, generator=torch.Generator().manual_seed(0)), prompt_of(net, "")

    def overflow_at_the_second(layer, args, out):
        calls.append(args[0].dtype)
        return out * torch.inf if len(calls) == 2 else None

    net.unet.conv_in.register_forward_hook(overflow_at_the_second)
    out = denoised(net, z, embeds, tile=4, overlap=1, runtime=Asked())
    assert asked == ["predicted noise"]
    assert calls == [torch.bfloat16] * 6 + [torch.float32] * 6
    rounded = copy.deepcopy(model).to(torch.bfloat16).float()
    torch.testing.assert_close(out, denoised(rounded, z.bfloat16(), embeds, tile=4, overlap=1))


@pytest.mark.parametrize(
    ("part", "dtype", "name"),
    [
        *((part, torch.float32, "float32") for part in PARTS),
        ("predicted noise", torch.bfloat16, "bfloat16 nor in float32"),
    ],
)
def test_what_stays_infinite_is_an_error_that_names_part_and_dtype(model, part, dtype, name):
    net = copy.deepcopy(model).to(dtype)
    for parameter in PARTS[part](net).parameters():
        parameter.fill_(torch.inf)
    with pytest.raises(OSEDiffError, match=f"{part} is not finite in {name}"):
        restore(net, image(8, 8))
    assert net.dtype == dtype


def test_the_model_may_train_after_a_repair_under_inference_mode(model):
    net = copy.deepcopy(model).to(torch.bfloat16)
    break_in_half(net.unet.conv_in)
    with torch.inference_mode():
        restore(net, image(8, 8))
    net.float().unet.conv_in.requires_grad_(True)
    sr, _ = net(torch.rand(1, 3, 16, 16), net.encode_prompt(["a cat"]))
    sr.mean().backward()
    assert net.unet.conv_in.weight.grad.isfinite().all()


def test_the_demo_needs_no_arguments_or_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("osediff_core.model.DEMO_BASE", tmp_path / "nothing")
    with pytest.raises(OSEDiffError, match="demo"):
        OSEDiff.from_pretrained()


def test_the_closed_form_gets_the_rounded_latent_that_the_unet_got(model):
    """Else the closed form amplifies the rounding of the latent by 1 / sqrt(alpha_bar), 15 times."""
    net = copy.deepcopy(model).to(torch.bfloat16)
    z, embeds = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)), prompt_of(net, "")
    assert not torch.equal(z, z.bfloat16().float())
    assert torch.equal(denoised(net, z, embeds), denoised(net, z.bfloat16().float(), embeds))


def test_the_detail_is_a_way_from_the_latent_that_came_to_the_restored_one(model):
    plan = make_plan(model, 8, 8, runtime=Runtime())
    z = encode(model, prepare(image(8, 8), plan), plan, Runtime())
    embeds = prompt_of(model, "")
    trained = denoised(model, z, embeds)
    assert torch.equal(denoised(model, z, embeds, detail=1.0), trained)
    assert torch.equal(denoised(model, z, embeds, detail=0.0), z)
    torch.testing.assert_close(denoised(model, z, embeds, detail=0.5), (z + trained) / 2)
    beyond = denoised(model, z, embeds, detail=1.5)
    torch.testing.assert_close(beyond - trained, (trained - z) / 2)
    assert not torch.allclose(beyond, trained, atol=1e-3)


def test_restore_passes_the_detail_on(model):
    lq = image(8, 8)
    assert torch.equal(restore(model, lq, detail=1.0), restore(model, lq))
    assert not torch.allclose(restore(model, lq, detail=0.5), restore(model, lq), atol=1e-3)


@pytest.mark.parametrize("detail", [-0.1, 2.5, float("nan"), float("inf")])
def test_a_detail_that_cannot_be_meant_is_refused_before_any_work(model, detail):
    with pytest.raises(OSEDiffError, match="the detail is from 0 to 2"):
        restore(model, image(4, 4), detail=detail, progress=lambda *_: pytest.fail("work was begun"))

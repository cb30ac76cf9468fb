"""What the nodes compute: exact sizes, units, 8-bit exactness, batches, channels; over a stand-in."""

from __future__ import annotations

import sys

import pytest
import torch

UPSCALE = {"scale": 4.0, "prompt": "cat", "color": "adain", "tile": "auto"}
DENOISE = {"tile": "auto", "overlap": 32}


def steps(nodes, model, image, scale=4.0, prompt="cat", color="adain", tile="auto", overlap=32):
    """The block graph: the result, and what was on its wires."""
    words = nodes["OSEDiffTextEncode"].run(model=model, prompt=prompt).args[0]
    latent, lq, *_ = nodes["OSEDiffLQEncode"].run(model=model, image=image, scale=scale).args
    inputs = {"model": model, "latent": latent, "conditioning": words, "tile": tile, "overlap": overlap}
    restored = nodes["OSEDiffDenoise"].run(**inputs).args[0]
    out = nodes["OSEDiffDecode"].run(model=model, latent=restored, reference=lq, color=color)
    return out.args[0], {"latent": latent, "lq": lq, "restored": restored, "out": out}


def core(pack):
    """The pack's own copy of the core."""
    return sys.modules[f"{pack.__name__}.osediff_core"]


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(21, 34, 4.0), (1, 1, 4.0), (33, 9, 2.5), (40, 24, 1.0)]
)
def test_the_result_is_exactly_scale_times_the_picture(nodes, model, photo, height, width, scale):
    image = photo(height, width)
    expected = (1, int(scale * height + 0.5), int(scale * width + 0.5), 3)
    whole = nodes["OSEDiffUpscale"].run(model=model, image=image, **{**UPSCALE, "scale": scale}).args[0]
    blocks, _ = steps(nodes, model, image, scale)
    assert whole.shape == expected
    assert blocks.shape == expected
    assert whole.dtype == torch.float32
    assert 0 <= whole.min() <= whole.max() <= 1


@pytest.mark.parametrize("color", ["adain", "wavelet", "none"])
def test_both_graphs_equal_the_core_on_8_bit_pixels(pack, nodes, model, photo, color):
    image = photo(batch=2)
    pixels = (image * 255).round().to(torch.uint8).movedim(-1, 1)
    expected = core(pack).restore(model.idle, pixels, prompt="cat", color=color).movedim(1, -1)
    whole = nodes["OSEDiffUpscale"].run(model=model, image=image, **{**UPSCALE, "color": color}).args[0]
    blocks, _ = steps(nodes, model, image, color=color)
    assert torch.equal(whole, expected)
    # the latents change their unit twice on the way, so the blocks are equal up to float rounding
    assert (blocks - expected).abs().max() < 1e-3
    assert ((blocks * 255).round() - (expected * 255).round()).abs().max() <= 1


def test_a_picture_off_the_8_bit_levels_is_not_rounded(pack, nodes, model, photo):
    """The negative control: rounding such a picture would change the result by more than is allowed."""
    image = (photo() * 0.9 + 0.0013).clamp(0, 1)
    whole = nodes["OSEDiffUpscale"].run(model=model, image=image, **UPSCALE).args[0]
    exact = core(pack).restore(model.idle, image.movedim(-1, 1), prompt="cat").movedim(1, -1)
    pixels = (image * 255).round().to(torch.uint8).movedim(-1, 1)
    rounded = core(pack).restore(model.idle, pixels, prompt="cat").movedim(1, -1)
    assert (whole - exact).abs().max() < 1e-3  # another memory layout sums in another order
    assert (whole - rounded).abs().max() > 1 / 255


def test_latents_are_in_comfyuis_unscaled_units(pack, nodes, model, photo):
    image = photo(32, 32)
    latent, lq, *_ = nodes["OSEDiffLQEncode"].run(model=model, image=image, scale=1.0).args
    scaled = model.idle.encode(lq.movedim(-1, 1))
    assert torch.allclose(latent["samples"] * model.idle.scaling_factor, scaled, atol=1e-6)
    assert not torch.allclose(latent["samples"], scaled, atol=1e-2)
    assert latent["samples"].dtype == torch.float32


def test_denoise_without_a_conditioning_takes_the_empty_prompt(nodes, model, photo):
    latent, *_ = nodes["OSEDiffLQEncode"].run(model=model, image=photo(), scale=2.0).args
    denoise, encode = nodes["OSEDiffDenoise"], nodes["OSEDiffTextEncode"]
    unconnected = denoise.run(model=model, latent=latent, **DENOISE).args[0]["samples"]
    by_prompt = [
        denoise.run(model=model, latent=latent, conditioning=words, **DENOISE).args[0]["samples"]
        for words in (encode.run(model=model, prompt=text).args[0] for text in ("", "a cat"))
    ]
    assert torch.equal(unconnected, by_prompt[0])
    assert not torch.equal(unconnected, by_prompt[1])


def test_denoise_keeps_what_the_latent_carries(nodes, model, photo):
    latent, *_ = nodes["OSEDiffLQEncode"].run(model=model, image=photo(), scale=2.0).args
    out = nodes["OSEDiffDenoise"].run(model=model, latent={**latent, "batch_index": [3]}, **DENOISE).args[0]
    assert out["osediff_size"] == (42, 68)
    assert out["batch_index"] == [3]


def test_decode_crops_to_the_reference_where_the_latent_has_no_size(nodes, model, photo):
    _, wires = steps(nodes, model, photo(21, 34), scale=2.0)
    latent = {"samples": wires["restored"]["samples"]}
    decode = nodes["OSEDiffDecode"]
    cropped = decode.run(model=model, latent=latent, reference=wires["lq"], color="none")
    assert cropped.args[0].shape == (1, 42, 68, 3)
    padded = decode.run(model=model, latent=latent, color="adain")
    assert padded.args[0].shape == (1, 48, 72, 3)
    note = padded.ui.as_dict()["text"][0]
    assert "72 × 48" in note
    assert "padded pixels" in note
    assert "no reference" in note
    small = decode.run(model=model, latent=latent, reference=photo(21, 34), color="wavelet")  # not resized
    assert small.args[0].shape == (1, 48, 72, 3)


def test_a_size_from_before_the_latent_was_cut_is_not_believed(nodes, model, photo):
    _, wires = steps(nodes, model, photo(21, 34), scale=2.0)
    half = {**wires["restored"], "samples": wires["restored"]["samples"][..., :4]}
    out = nodes["OSEDiffDecode"].run(model=model, latent=half, color="none")
    assert out.args[0].shape == (1, 48, 32, 3)


def test_what_the_size_is_stands_on_the_node(comfy, nodes, model, photo):
    out = nodes["OSEDiffUpscale"].run(model=model, image=photo(21, 34), **UPSCALE)
    assert out.ui.as_dict() == {"text": ("136 × 84",)}
    assert comfy.said[-1] == ("7", "136 × 84")
    assert out.args[1] == "cat"


def test_alpha_is_resized_and_put_back(nodes, model, photo):
    image = photo(channels=4)
    opaque = image[..., :3]
    whole = nodes["OSEDiffUpscale"].run(model=model, image=image, **UPSCALE).args[0]
    blocks, wires = steps(nodes, model, image)
    assert whole.shape == blocks.shape == (1, 84, 136, 4)
    solid = torch.cat([opaque, torch.ones_like(opaque[..., :1])], dim=-1)
    without, full = (
        nodes["OSEDiffUpscale"].run(model=model, image=one, **UPSCALE).args[0] for one in (opaque, solid)
    )
    assert torch.equal(full[..., :3], without)
    assert torch.equal(whole[..., 3], wires["lq"][..., 3])
    assert torch.equal(blocks[..., 3], whole[..., 3])
    assert whole[..., 3].std() > 0.1


def test_a_grey_image_is_three_equal_channels(nodes, model, photo):
    grey = photo(channels=1)
    one = nodes["OSEDiffUpscale"].run(model=model, image=grey, **UPSCALE).args[0]
    three = nodes["OSEDiffUpscale"].run(model=model, image=grey.expand(-1, -1, -1, 3), **UPSCALE).args[0]
    assert torch.equal(one, three)


def with_hidden(photo, fill):
    """An IMAGE of 4 channels whose border is transparent, with `fill` (a number or an IMAGE) under it."""
    image = photo(channels=4)
    image[..., 3] = 1
    image[:, :5, :, 3] = 0
    image[..., :3] = torch.where(image[..., 3:] > 0, image[..., :3], fill)
    return image


@pytest.mark.parametrize("color", ["adain", "wavelet", "none"])
def test_what_is_under_alpha_0_has_no_influence(pack, nodes, model, photo, color):
    fills = (0.0, 1.0, 0.12345, torch.nan, photo(seed=9))
    images = [with_hidden(photo, fill) for fill in fills]
    whole = [nodes["OSEDiffUpscale"].run(model=model, image=i, **{**UPSCALE, "color": color}) for i in images]
    assert all(torch.equal(one.args[0], whole[0].args[0]) for one in whole)
    blocks = [steps(nodes, model, image, color=color)[0] for image in images]
    assert all(torch.equal(one, blocks[0]) for one in blocks)
    shown = whole[0].args[0][..., 3:] > 0
    assert ((blocks[0] - whole[0].args[0]) * shown).abs().max() < 1e-2
    planes = (images[0] * 255).round().to(torch.uint8).movedim(-1, 1)
    expected = core(pack).restore(model.idle, planes[:, :3], alpha=planes[:, 3:], prompt="cat", color=color)
    assert torch.equal(whole[0].args[0][..., :3], expected.movedim(1, -1))
    bare = [
        nodes["OSEDiffUpscale"].run(model=model, image=i[..., :3], **{**UPSCALE, "color": color}).args[0]
        for i in images[:2]
    ]
    assert ((bare[0] - bare[1]) * shown).abs().max() > 0.05  # it would have had


@pytest.mark.parametrize("color", ["adain", "wavelet", "none"])
def test_grey_pictures_stay_grey_in_a_batch_with_others(nodes, model, photo, color):
    grey = photo(channels=1).expand(-1, -1, -1, 3)
    batch = torch.cat([grey, photo(seed=1)])
    whole = nodes["OSEDiffUpscale"].run(model=model, image=batch, **{**UPSCALE, "color": color}).args[0]
    blocks, _ = steps(nodes, model, batch, color=color)
    for out in (whole, blocks, steps(nodes, model, grey, color=color)[0]):
        assert torch.equal(out[0].amax(-1), out[0].amin(-1))
        assert out.is_contiguous() or out.movedim(-1, 1).is_contiguous()  # no channel lies on another
    assert not torch.equal(whole[1].amax(-1), whole[1].amin(-1))
    assert (whole - blocks).abs().max() < 1e-3


def test_a_batch_is_its_pictures_one_by_one(nodes, model, photo):
    batch = photo(batch=3)
    together = nodes["OSEDiffUpscale"].run(model=model, image=batch, **UPSCALE).args[0]
    alone = [nodes["OSEDiffUpscale"].run(model=model, image=one, **UPSCALE).args[0] for one in batch.split(1)]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(alone[0], alone[1])
    blocks, _ = steps(nodes, model, batch)
    assert (blocks - together).abs().max() < 1e-3

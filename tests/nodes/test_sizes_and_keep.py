"""The size widgets, width and height, the overlap, and what a mask keeps."""

from __future__ import annotations

import pytest
import torch

UPSCALE = {"scale": 4.0, "prompt": "", "color": "adain", "tile": "auto"}
COVER = {"size": "cover", "width": 40, "height": 30}


@pytest.mark.parametrize(
    ("choice", "size"),
    [
        ({}, (136, 84)),
        ({"size": "long side", "long_side": 100}, (100, 62)),
        ({"size": "megapixels", "megapixels": 0.01}, (127, 79)),
        ({"size": "fit", "width": 90, "height": 90}, (90, 56)),
        (COVER, (40, 30)),
    ],
)
def test_every_way_is_the_size_of_the_outputs(nodes, model, photo, choice, size):
    image, _, width, height = (
        nodes["OSEDiffUpscale"].run(model=model, image=photo(), **UPSCALE, **choice).args
    )
    assert (width, height) == size
    assert tuple(image.shape) == (1, size[1], size[0], 3)
    latent, lq, width, height = (
        nodes["OSEDiffLQEncode"].run(model=model, image=photo(), scale=4.0, **choice).args
    )
    assert (width, height) == size
    assert tuple(lq.shape) == (1, size[1], size[0], 3)
    decoded = nodes["OSEDiffDecode"].run(model=model, latent=latent, color="adain", reference=lq).args[0]
    assert decoded.shape == lq.shape


def test_steps_and_one_node_are_the_same_where_sides_are_cut_off(nodes, model, photo):
    image = photo(channels=4)
    whole = nodes["OSEDiffUpscale"].run(model=model, image=image, **UPSCALE, **COVER).args[0]
    latent, lq, *_ = nodes["OSEDiffLQEncode"].run(model=model, image=image, scale=4.0, **COVER).args
    restored = nodes["OSEDiffDenoise"].run(model=model, latent=latent, tile="auto", overlap=32).args[0]
    steps = nodes["OSEDiffDecode"].run(model=model, latent=restored, color="adain", reference=lq).args[0]
    assert whole.shape[-1] == 4
    assert (whole - steps).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"size": "long side", "long_side": 10}, "34 x 21 is larger than long side 10"),
        ({"size": "wide"}, "one of scale, long side, megapixels, fit, cover"),
    ],
)
def test_sizes_that_cannot_be(nodes, model, photo, choice, says):
    with pytest.raises(ValueError, match=says):
        nodes["OSEDiffUpscale"].run(model=model, image=photo(), **UPSCALE, **choice)


def test_a_mask_keeps_what_is_white_and_nothing_else(nodes, model, photo):
    image = photo(40, 40)
    mask = torch.zeros(1, 20, 20)
    mask[:, :, :10] = 1
    upscale = nodes["OSEDiffUpscale"]
    plain = upscale.run(model=model, image=image, **UPSCALE).args[0]
    kept = upscale.run(model=model, image=image, keep=mask, **UPSCALE).args[0]
    lq = nodes["OSEDiffLQEncode"].run(model=model, image=image, scale=4.0).args[1]
    assert torch.equal(kept[:, :, 100:], plain[:, :, 100:])
    assert (kept[:, :, :60] - lq[:, :, :60]).abs().max() < 1e-6
    assert (plain[:, :, :60] - lq[:, :, :60]).abs().max() > 0.05
    step = (kept[:, :, 1:] - kept[:, :, :-1]).abs().max() - (plain[:, :, 1:] - plain[:, :, :-1]).abs().max()
    assert step < 0.2  # no edge of its own
    assert torch.equal(upscale.run(model=model, image=image, keep=0 * mask, **UPSCALE).args[0], plain)


def test_a_mask_of_another_batch(nodes, model, photo):
    with pytest.raises(ValueError, match="one for each of 3 images"):
        nodes["OSEDiffUpscale"].run(model=model, image=photo(batch=3), keep=torch.zeros(2, 8, 8), **UPSCALE)


def test_the_overlap_is_the_steps_own(nodes, model, photo):
    image, settings = photo(120, 120), {**UPSCALE, "tile": "48", "color": "none"}
    latent, *_ = nodes["OSEDiffLQEncode"].run(model=model, image=image, scale=4.0).args
    found = nodes["OSEDiffUpscale"].run(model=model, image=image, overlap=8, **settings).args[0]
    restored = nodes["OSEDiffDenoise"].run(model=model, latent=latent, tile="48", overlap=8).args[0]
    steps = nodes["OSEDiffDecode"].run(model=model, latent=restored, color="none").args[0]
    assert (found - steps).abs().max() < 1e-5
    assert (
        found - nodes["OSEDiffUpscale"].run(model=model, image=image, **settings).args[0]
    ).abs().max() > 1e-5

"""In bfloat16 on a processor the VAE's channels lie last; the picture is the same but for rounding."""

import pytest
import torch

from osediff_core import OSEDiff, restore


@pytest.mark.parametrize(("dtype", "last"), [("float32", False), ("bfloat16", True)])
def test_channels_of_the_vae_lie_last_in_bfloat16_alone(dtype, last):
    model = OSEDiff.from_pretrained(device="cpu", dtype=dtype)
    for network, found in ((model.vae, last), (model.unet, False)):
        weight = next(p for p in network.parameters() if p.ndim == 4 and min(p.shape) > 1)
        assert weight.is_contiguous(memory_format=torch.channels_last) == found


@pytest.mark.parametrize("vae", ["whole", 32])
def test_the_picture_is_the_same_but_for_rounding(vae):
    lq = torch.rand(1, 3, 13, 18, generator=torch.Generator().manual_seed(0))
    model = OSEDiff.from_pretrained(device="cpu", dtype="bfloat16")
    laid = restore(model, lq, vae=vae)
    model.vae.to(memory_format=torch.contiguous_format)
    plain = restore(model, lq, vae=vae)
    exact = restore(OSEDiff.from_pretrained(device="cpu", dtype="float32"), lq)
    assert (laid - exact).square().mean() < 1.5 * (plain - exact).square().mean()
    assert (laid - exact).abs().max() > 0

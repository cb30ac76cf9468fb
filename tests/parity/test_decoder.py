"""A decoder of other widths against diffusers' own class of these widths, equal to the bit."""

import pytest
import torch

from benchmarks.random_base import LIGHT_WIDTHS, random_decoder
from osediff_core.base import sd21
from osediff_core.network.config import VAEConfig, read_config
from osediff_core.network.vae import VAE

TINY = {**sd21.VAE, "block_out_channels": (8, 16), "norm_num_groups": 4} | {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
CASES = [
    pytest.param(TINY, (4, 8), 12, id="tiny"),
    pytest.param(sd21.VAE, LIGHT_WIDTHS, 32, id="full size", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("settings", "widths", "side"), CASES)
@torch.no_grad()
def test_our_decoder_is_diffusers(settings, widths, side):
    from diffusers.models.autoencoders.vae import Decoder

    names = ("up_block_types", "layers_per_block", "norm_num_groups")
    how = {name: settings[name] for name in names if name in settings}
    theirs = Decoder(4, 3, block_out_channels=widths, **how).eval()
    weights = random_decoder(settings, widths)
    theirs.load_state_dict(weights)
    config = {**settings, "decoder_block_out_channels": widths, "use_post_quant_conv": False}
    ours = VAE(read_config(VAEConfig, config)).eval()
    ours.decoder.load_state_dict(weights)
    z = torch.randn(1, 4, side, side + 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.decode(z), theirs(z))
    assert ours.decode(z).shape[1:] == (3, side * 2 ** (len(widths) - 1), (side + 8) * 2 ** (len(widths) - 1))

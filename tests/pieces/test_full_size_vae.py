"""The VAE of Stable Diffusion in pieces: exact at a size that nothing divides, and in bounded memory."""

import pytest
import torch

from osediff_core.vae import strips as kept
from osediff_core.vae.exact import decode_in_pieces, encode_in_pieces
from osediff_core.vae.memory import PIECE, decode_bytes, encode_bytes

from .vaes import Alive, make_vae, uneven, whole

GATE = 1e-4
GIB = 2**30
SHAPE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32}


@pytest.mark.slow
def test_a_thousand_by_1336_in_pieces_of_256_is_the_whole():
    vae = make_vae(None, **SHAPE)
    x, z = uneven(1, 3, 1000, 1336), torch.randn(1, 4, 125, 167, generator=torch.manual_seed(0))
    moments, image = whole(vae, x, z)
    assert image.std() > 0.1
    encoded = (encode_in_pieces(vae, x, piece=256) - moments).abs().max().item()
    decoded = (decode_in_pieces(vae, z, piece=256) - image).abs().max().item()
    print(f"encoding {encoded:.1e}, decoding {decoded:.1e}")
    assert max(encoded, decoded) <= GATE


class OnDevice(Alive):
    """Counts what is on the device, without what is kept: strips that are made by `keep` are the host's."""

    def keep(self, shape, dtype):
        before = self.peak
        strip = torch.empty(shape, dtype=dtype, device="meta")  # seen, and taken back
        key = strip.untyped_storage()._cdata
        self.now, self.peak = self.now - self._seen[key], before
        self._seen[key] = 0
        return strip


@pytest.mark.parametrize(
    ("height", "width", "dtype"),
    [
        (512, 640, torch.float32),
        pytest.param(2048, 2048, torch.float32, marks=pytest.mark.slow),
        pytest.param(2048, 2048, torch.float16, marks=pytest.mark.slow),
        pytest.param(64, 40000, torch.float32, marks=pytest.mark.slow),
    ],
)
def test_a_device_works_within_a_gibibyte_while_the_host_keeps_the_rest(monkeypatch, height, width, dtype):
    """On the meta device, where every tensor has its size and no content; kernels' own memory is not seen."""
    with torch.device("meta"):
        vae = make_vae(None, **SHAPE).to(dtype)
    read = kept.Activation.read
    # What comes from the host is a copy on the device.
    monkeypatch.setattr(kept.Activation, "read", lambda *args: read(*args).clone())
    ways = {
        "encode": (encode_in_pieces, encode_bytes, (1, 3, height, width)),
        "decode": (decode_in_pieces, decode_bytes, (1, 4, height // 8, width // 8)),
    }
    for run, memory, shape in ways.values():
        x = torch.empty(shape, dtype=dtype, device="meta")
        with OnDevice() as alive:
            monkeypatch.setattr("osediff_core.vae.exact.on_host", alive.keep)
            out = run(vae, x, keep=torch.device("cpu"))
        working, _ = memory(vae, height, width, PIECE, torch.device("cpu"))
        peak = alive.peak - out.nbytes  # the result is put together in the host's memory
        print(f"{height} x {width}, {dtype}: {peak / GIB:.2f} GiB, estimated {working / GIB:.2f}")
        assert 0.2 * working < peak <= working <= GIB

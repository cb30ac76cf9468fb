"""Encoding and decoding in pieces gives what the whole gives, and keeps no more than it says."""

import gc
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from osediff_core.errors import OSEDiffError
from osediff_core.vae import attention as attend
from osediff_core.vae import geometry as pieces
from osediff_core.vae import layers as stages
from osediff_core.vae.exact import decode_in_pieces, encode_in_pieces
from osediff_core.vae.memory import CONVOLUTION, PIECE, decode_bytes, encode_bytes

from .vaes import BUILDS, Alive, make_vae, uneven, whole

GATE = 1e-4  # absolute, float32
HALF_GATES = {torch.bfloat16: 0.1, torch.float16: 0.02}  # against the same half precision, whole
VAES = {build: make_vae(build) for build in BUILDS}


def error(vae, x, z, piece, **options):
    """The largest difference to the whole, of encoding and of decoding."""
    moments, image = whole(vae, x, z)
    ours = encode_in_pieces(vae, x, piece=piece, **options), decode_in_pieces(vae, z, piece=piece, **options)
    assert ours[0].shape == moments.shape
    assert ours[1].shape == image.shape
    assert ours[0].dtype == moments.dtype
    return (ours[0] - moments).abs().max().item(), (ours[1] - image).abs().max().item()


def inputs(vae, height, width, batch=1, seed=0):
    f = 2 ** (len(vae.config.block_out_channels) - 1)
    z = torch.randn(batch, vae.config.latent_channels, height, width, generator=torch.manual_seed(seed))
    return uneven(batch, 3, height * f, width * f, seed=seed), z


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(list(BUILDS)),
    st.integers(1, 14),
    st.integers(1, 14),
    st.integers(32, 60),
    st.integers(1, 2),
)
@example("like SD", 1, 90, 32, 1)
@example("like SD", 90, 1, 32, 1)
@example("like SD", 1, 1, 32, 2)
@example("no quant convs", 63, 47, 33, 1)
def test_pieces_of_any_size_give_the_whole(build, height, width, piece, batch):
    x, z = inputs(VAES[build], height, width, batch)
    assert max(error(VAES[build], x, z, piece)) <= GATE


@settings(deadline=None, max_examples=6)
@given(st.sampled_from(list(HALF_GATES)), st.integers(4, 12), st.integers(4, 12), st.integers(32, 48))
def test_half_precision_agrees_as_far_as_it_rounds(dtype, height, width, piece):
    vae = make_vae("like the demo").to(dtype)
    x, z = inputs(vae, height, width)
    assert max(error(vae, x.to(dtype), z.to(dtype), piece)) <= HALF_GATES[dtype]


@pytest.mark.parametrize(
    ("height", "width", "piece"),
    [(61, 83, 128), pytest.param(125, 167, 256, marks=pytest.mark.slow)],
    ids=["488x664", "1000x1336"],
)
def test_a_size_that_nothing_divides(height, width, piece):
    vae = VAES["like SD"]
    assert max(error(vae, *inputs(vae, height, width), piece)) <= GATE


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_thin_and_narrow_pieces(monkeypatch, rows):
    monkeypatch.setattr(pieces, "LEAST_ROWS", rows)
    vae = VAES["like SD"]
    assert max(error(vae, *inputs(vae, 11, 13), 32)) <= GATE


def test_attention_with_keys_made_again_for_every_block(monkeypatch):
    monkeypatch.setattr(attend.attend, "__defaults__", (0,))
    monkeypatch.setattr(attend, "BLOCK", 7)
    vae = VAES["like SD"]
    assert max(error(vae, *inputs(vae, 9, 13), 32)) <= GATE


def test_queries_in_chunks(monkeypatch):
    monkeypatch.setattr(attend, "SCORES_BYTES", 8 * 9 * 13 * 5)
    vae = VAES["like SD"]
    assert max(error(vae, *inputs(vae, 9, 13), 32)) <= GATE


def published_merge(self, other):
    """The published hook's: the spread between the pieces' means is left out (METHOD: 2.2 of the hook)."""
    count = self.count + other.count
    share = other.count / count
    return pieces.Moments(
        count, torch.lerp(self.mean, other.mean, share), torch.lerp(self.var, other.var, share)
    )


def test_control_statistics_merged_as_published_miss_the_gate(monkeypatch):
    vae = VAES["like the demo"]
    x, z = inputs(vae, 16, 16)
    assert max(error(vae, x, z, 32)) <= GATE
    monkeypatch.setattr(pieces.Moments, "merge", published_merge)
    encoded, decoded = error(vae, x, z, 32)
    assert encoded > 10 * GATE
    assert decoded > 10 * GATE


def test_control_attention_of_each_piece_to_itself_misses_the_gate(monkeypatch):
    vae = VAES["like SD"]
    x, z = inputs(vae, 48, 48)

    def local(block, sweeper, x):
        def compute(patch):
            return (block(patch.data.contiguous()),)

        return sweeper.sweep([attend.Operand(x)], 2 * x.channels, compute)[0]

    monkeypatch.setattr(stages, "attend", local)
    encoded, decoded = error(vae, x, z, 32)
    assert encoded > 10 * GATE
    assert decoded > 10 * GATE


def test_control_a_halo_of_zeros_misses_the_gate(monkeypatch):
    vae = VAES["no quant convs"]
    x, z = inputs(vae, 48, 48)
    assert max(error(vae, x, z, 32)) <= GATE
    read = pieces.Reach.window

    def blind(self, start, stop, length):
        there = read(self, start, stop, length)
        cut_off = self.kernel == 3 and self.stride == 1 and there.start > 0 and self.before == 1
        return pieces.Window(there.start + 1, there.stop, 1, there.after) if cut_off else there

    monkeypatch.setattr(pieces.Reach, "window", blind)
    assert min(error(vae, x, z, 32)) > 10 * GATE


def test_a_large_mean_with_a_small_spread_keeps_its_variance():
    g = torch.Generator().manual_seed(0)
    x = 1000 + 0.1 * torch.randn(1, 3, 64, 64, generator=g)
    moments = None
    for strip in x.split(5, dim=2):
        found = pieces.Moments.of(strip)
        moments = found if moments is None else moments.merge(found)
    true = x.double().flatten(2).var(2, correction=0)
    assert torch.allclose(moments.var.double(), true, rtol=1e-2)
    naive = (x.square().flatten(2).mean(2) - x.flatten(2).mean(2).square()).double()
    assert not torch.allclose(naive, true, rtol=1e-2)


def test_what_is_kept_may_lie_in_files_that_leave_nothing_behind(tmp_path):
    vae = VAES["like SD"]
    x, z = inputs(vae, 12, 12)
    assert max(error(vae, x, z, 32, keep=tmp_path)) <= GATE
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(OSEDiffError, match=r"no room for .*No space left on device.*another disk"):
        decode_in_pieces(VAES["like SD"], inputs(VAES["like SD"], 4, 4)[1], keep=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [None, "files"])
def test_an_interrupted_walk_frees_what_it_took(tmp_path, keep):
    vae = VAES["like SD"]
    z = inputs(vae, 20, 20)[1]
    beats = []

    class CancelError(Exception):
        pass

    def beat(done):
        beats.append(done)
        if len(beats) == 40:
            raise CancelError

    with Alive() as alive:
        with pytest.raises(CancelError):
            decode_in_pieces(vae, z, piece=32, keep=tmp_path if keep else None, on_step=beat)
        gc.collect()
        assert alive.peak > 10 * alive.now
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("build", BUILDS)
def test_the_estimates_hold(build, monkeypatch):
    monkeypatch.setattr(attend, "SCORES_BYTES", 1)  # or it would hide the rest at this size
    vae = VAES[build]
    x, z = inputs(vae, 40, 40)
    height, width = x.shape[-2:]
    ways = {
        "encode": (encode_bytes, lambda: vae.encode(x), lambda: encode_in_pieces(vae, x, piece=32)),
        "decode": (decode_bytes, lambda: vae.decode(z), lambda: decode_in_pieces(vae, z, piece=32)),
    }
    for memory, at_once, cut in ways.values():
        with Alive() as alive, torch.no_grad():
            at_once()
        tensors = memory(vae, height, width, None, None)[0] / CONVOLUTION
        assert 0.5 * tensors < alive.peak < 1.1 * tensors
        with Alive() as alive:
            cut()
        there, nothing = memory(vae, height, width, 32, None)
        assert 0.3 * there < alive.peak < there
        assert nothing == 0
        # The layer that works most need not be the one that keeps most: of the two sums this is the larger.
        assert there <= sum(memory(vae, height, width, 32, Path())) < 1.03 * there


def test_the_stable_diffusion_vae_works_within_a_gibibyte_beside_two_activations():
    """By the estimate, which the test above holds to the truth, from 1024 x 1024 to 40000 x 20000."""
    with torch.device("meta"):
        vae = make_vae(None, block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32)
    for height, width in [(1024, 1024), (2048, 2048), (40000, 20000), (8, 200000)]:
        widest = height * width * 256 * 4
        for memory in (encode_bytes, decode_bytes):
            working, kept = memory(vae, height, width, PIECE, Path())
            assert working <= 2**30
            assert kept <= 2 * widest
            assert memory(vae, height, width, None, None)[0] / CONVOLUTION > 1.4 * kept


def test_mistakes_are_sentences():
    vae = VAES["like SD"]
    x, z = inputs(vae, 2, 2)
    with pytest.raises(OSEDiffError, match="at least 32 pixels wide, got 8"):
        encode_in_pieces(vae, x, piece=8)
    with pytest.raises(OSEDiffError, match="at least 32 pixels wide, got 31"):
        decode_in_pieces(vae, z, piece=31)

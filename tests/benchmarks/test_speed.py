"""The measuring programs measure what they say, on the micro model."""

from __future__ import annotations

from contextlib import nullcontext, suppress

import pytest
import torch

from benchmarks.pairs import ratios
from benchmarks.published import DECODER_TILE, ENCODER_TILE, predict_noise_by_tiles, publish
from benchmarks.published_hook import run_hook
from benchmarks.speed import ON_A_PROCESSOR, WAYS, Setting, line, measure, parse, settings
from osediff_core import OSEDiff
from osediff_core.network.config import VAEConfig
from osediff_core.network.vae import VAE
from osediff_core.weights.checkpoint import read_checkpoint


@pytest.fixture
def base(tmp_path, micro):
    """The micro base and its checkpoint, laid out as the programs write theirs."""
    (tmp_path / "base").symlink_to(micro / "tiny_sd")
    (tmp_path / "osediff.pkl").symlink_to(micro / "osediff.pkl")
    (tmp_path / "vocabulary").symlink_to(micro / "tiny_sd" / "tokenizer")
    return tmp_path / "base"


def test_adapters_beside_the_weights_give_what_folded_ones_do(micro):
    tiny, weights = micro / "tiny_sd", micro / "osediff.pkl"
    folded = OSEDiff.from_pretrained(tiny, weights, device="cpu", dtype="float32")
    plain = OSEDiff.from_pretrained(tiny, device="cpu", dtype="float32")
    z = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    embeds = folded.encode_prompt(["a cat"]).detach()
    with torch.no_grad():
        wanted = folded.predict_noise(z, embeds)
        assert not torch.allclose(plain.predict_noise(z, embeds), wanted, atol=1e-2)
        way = publish(plain, read_checkpoint(weights))
        torch.testing.assert_close(predict_noise_by_tiles(way, z, embeds), wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_measured_and_near_ours(way, base, tmp_path):
    results = {}
    for name in ("ours", way):
        out = tmp_path / f"{name}.pt"
        found = measure(Setting(name, "128x96", 1, "cpu", "float32"), base, 1, out)
        assert min(found.values()) > 0
        results[name] = torch.load(out).float()
    assert results[way].shape == (1, 3, 96, 128)
    assert (results[way] - results["ours"]).abs().max() < 5e-3  # halves were stored


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_published_way_runs_in_half_precision(dtype, base, tmp_path):
    exact = measured("published", base, tmp_path)
    half = measured("published", base, tmp_path, dtype)
    assert 0 < (half - exact).abs().max() < 0.1


def measured(way, base, tmp_path, dtype="float32"):
    measure(Setting(way, "64x64", 1, "cpu", dtype), base, 1, tmp_path / "sr.pt")
    return torch.load(tmp_path / "sr.pt").float()


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_published_pieces_run_in_half_precision(way):
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    torch.manual_seed(0)
    vae = VAE(VAEConfig(block_out_channels=(32,) * 4, **kinds)).eval()
    side, tile, channels = (256, 128, 3) if way == "encode" else (48, 16, 4)
    x = torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = run_hook(vae, x, way, tile)
        half = run_hook(vae.bfloat16(), x.bfloat16(), way, tile)
    assert half.dtype == torch.bfloat16
    assert 0 < (half - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_pairs_are_measured_after_one_that_warms_up(base, capsys):
    found = ratios(base, "64x64", "float32", 2)
    assert len(found) == 2
    assert min(map(min, found)) > 0
    assert [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()] == ["| 1", "| 2"]


def test_a_row_that_was_not_run_says_so():
    assert "not measured" in line(Setting("ours", "512x512", 8, "cuda", "float16"), None, None, 1.0)


def test_a_processor_runs_its_part_of_the_matrix(monkeypatch):
    monkeypatch.setattr("sys.argv", ["speed", "somewhere", "--cpu"])
    wanted = [s for s, run in settings(parse()) if run]
    assert {(s.size, s.batch) for s in wanted} == ON_A_PROCESSOR
    assert {s.way for s in wanted} == {"ours", "published"}
    monkeypatch.setattr("sys.argv", ["speed", "somewhere", "--cpu", "--ways", "diffusers tiling"])
    assert {s.way for s, run in settings(parse()) if run} == {"diffusers tiling"}
    monkeypatch.setattr("sys.argv", ["speed", "somewhere"])
    assert all(run for _, run in settings(parse()))


@pytest.mark.parametrize(("side", "cut"), [(512, False), (1024, False), (2048, True)])
@pytest.mark.parametrize("way", ["encode", "decode"])
def test_up_to_1024_the_published_way_does_not_cut_the_vae(side, cut, way):
    whole = []

    class Coder(torch.nn.Module):
        conv_in = torch.nn.Identity()  # where a piece begins

        def forward(self, x):
            whole.append(x.shape)
            return x

    vae = torch.nn.Module()
    vae.encoder = vae.decoder = Coder()
    vae.quant_conv = vae.post_quant_conv = torch.nn.Identity()
    x = torch.empty(1, 3, side, side) if way == "encode" else torch.empty(1, 4, side // 8, side // 8)
    with suppress(AttributeError) if cut else nullcontext():  # the coder has no layers to cut
        run_hook(vae, x, way, ENCODER_TILE if way == "encode" else DECODER_TILE)
    assert whole == ([] if cut else [x.shape])

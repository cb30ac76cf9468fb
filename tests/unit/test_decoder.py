"""A decoder from a file of its own: told by names and shapes, carried by merged models, known to plans."""

import json

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.random_base import LIGHT_WIDTHS, random_decoder, write_decoder
from osediff_core import OSEDiff, restore
from osediff_core.base import sd21
from osediff_core.base.decoder import with_decoder
from osediff_core.base.load import DEMO_BASE, find_parts, load_base
from osediff_core.base.marker import read_marker
from osediff_core.base.network import empty_network, fill
from osediff_core.base.single_file import single_file_parts
from osediff_core.commands.convert import main as convert
from osediff_core.commands.inspect import main as inspect
from osediff_core.errors import OSEDiffError
from osediff_core.network.config import VAEConfig, read_config, write_config
from osediff_core.network.vae import VAE
from osediff_core.pipeline.plan import make_plan
from osediff_core.pipeline.runtime import Runtime
from osediff_core.tools.cost import macs
from osediff_core.vae.exact import decode_in_pieces
from osediff_core.vae.memory import decode_bytes, encode_bytes

HALF = (4, 4, 8, 8)  # of the micro VAE's widths


@pytest.fixture(scope="module")
def settings(micro):
    return json.loads((micro / "tiny_sd" / "vae" / "config.json").read_text())


@pytest.fixture(scope="module")
def file(settings, tmp_path_factory):
    """A lighter decoder for the micro base, as the published one is written."""
    place = tmp_path_factory.mktemp("decoder") / "lighter.pth"
    write_decoder(place, settings, HALF)
    return place


def vae_of(micro, decoder, dtype=torch.float32):
    """The VAE alone, which is loaded in milliseconds."""
    part = with_decoder(find_parts(micro / "tiny_sd")["vae"], decoder)
    vae = empty_network(part)
    fill(vae, part, None, lambda name: dtype, "cpu")
    return vae


@pytest.fixture(scope="module")
def lighter(micro, file):
    options = {"dtype": "float32", "device": "cpu", "decoder": file}
    return OSEDiff.from_pretrained(micro / "tiny_sd", micro / "osediff.pkl", **options)


def test_it_takes_the_place_of_the_decoder_alone(lighter, model, settings):
    weights, theirs = random_decoder(settings, HALF), dict(lighter.vae.decoder.state_dict())
    assert weights.keys() == theirs.keys()
    assert all(torch.equal(weights[name], theirs[name]) for name in weights)
    assert lighter.vae.post_quant_conv is None
    for one, other in ((lighter.vae.encoder, model.vae.encoder), (lighter.unet, model.unet)):
        ours, theirs = one.state_dict(), other.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    lq = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(lighter.encode(lq), model.encode(lq))
    assert not torch.equal(restore(lighter, lq), restore(model, lq))
    assert "lighter.pth" in repr(lighter)


@pytest.mark.parametrize("before", ["", "decoder.", "module.", "net.decoder."])
def test_words_before_its_names(micro, settings, lighter, tmp_path, before):
    weights = {before + name: tensor for name, tensor in random_decoder(settings, HALF).items()}
    save_file(weights, tmp_path / "d.safetensors")
    found = vae_of(micro, tmp_path / "d.safetensors").decoder.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in lighter.vae.decoder.state_dict().items())


@pytest.mark.parametrize("before", ["", "decoder."])
def test_a_post_quant_conv_beside_it_is_its_own(micro, settings, tmp_path, before):
    weights = {before + name: tensor for name, tensor in random_decoder(settings, HALF).items()}
    own = torch.randn(4, 4, 1, 1, generator=torch.Generator().manual_seed(1))
    weights |= {"post_quant_conv.weight": own, "post_quant_conv.bias": torch.zeros(4)}
    save_file(weights, tmp_path / "d.safetensors")
    assert torch.equal(vae_of(micro, tmp_path / "d.safetensors").post_quant_conv.weight, own)


def test_a_base_in_one_file_takes_it_as_well(micro_in_one_file, micro_architecture, file, lighter, tmp_path):
    save_file({key: t.contiguous() for key, t in micro_in_one_file.items()}, tmp_path / "base.safetensors")
    part = with_decoder(single_file_parts(tmp_path / "base.safetensors", micro_architecture)["vae"], file)
    vae = empty_network(part)
    fill(vae, part, None, lambda name: torch.float32, "cpu")
    found, wanted = vae.decoder.state_dict(), lighter.vae.decoder.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert sum(p.numel() for p in vae.encoder.parameters()) > 0
    assert vae.post_quant_conv is None


def test_pieces_are_the_whole(lighter):
    z = torch.randn(1, 4, 9, 13, generator=torch.Generator().manual_seed(0))
    pieces = decode_in_pieces(lighter.vae, z, piece=32)
    assert (pieces - lighter.vae.decode(z)).abs().max() < 1e-5


def test_a_merged_model_carries_it(micro, file, lighter, tmp_path, capsys):
    out, base = tmp_path / "m", micro / "tiny_sd"
    args = [micro / "osediff.pkl", out, "--to", "merged", "--base", base, "--dtype", "float32"]
    assert convert([*map(str, args), "--decoder", str(file)]) == 0
    again = OSEDiff.from_pretrained(out, device="cpu", dtype="float32")
    found, wanted = again.vae.state_dict(), lighter.vae.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert read_marker(out)["decoder"] == "lighter.pth"
    capsys.readouterr()
    assert inspect([str(out)]) == 0
    assert "lighter.pth" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["checkpoint", "vae", "osediff"])
def test_no_other_layout_takes_it(micro, file, tmp_path, capsys, layout):
    args = [micro / "osediff.pkl", tmp_path / "m.safetensors", "--to", layout, "--decoder", file]
    assert convert([*map(str, args), "--base", str(micro / "tiny_sd")]) == 2
    assert "--decoder is for --to merged" in capsys.readouterr().err


def without(weights, name):
    return {key: tensor for key, tensor in weights.items() if key != name}


def test_others_are_refused_by_name(micro, settings, file, tmp_path):
    good, place = random_decoder(settings, HALF), tmp_path / "d.safetensors"
    vae = {f"encoder.{n}": t for n, t in good.items()} | {f"decoder.{n}": t.clone() for n, t in good.items()}
    wide = good | {"conv_in.weight": torch.zeros(8, 16, 3, 3)}
    first_down = {"down_blocks.0.resnets.0.conv1.weight": torch.zeros(1)}
    unet = good | first_down
    encoder = {f"encoder.{name}": tensor for name, tensor in first_down.items()}
    short = {key: t for key, t in good.items() if "up_blocks.3" not in key}
    first = "up_blocks.0.resnets.0.conv1.weight"
    uneven, whole = good | {first: good[first][:6]}, good | {"conv_out.weight": good["conv_out.weight"].int()}
    cases = {
        "is a VAE alone, expected the decoder of a VAE alone": vae,
        "is a UNet alone.*expected the decoder": unet,
        "is the encoder of a VAE alone, expected the decoder": encoder,
        "is a file of an unknown kind, expected the decoder": {"some": torch.zeros(1)},
        r"no decoder for the latents of .*vae: conv_in.weight is \(8, 16, 3, 3\), expected \(8, 4": wide,
        "decoder_block_out_channels speak of different levels": short,
        "6 channels cannot be divided into 4 groups": uneven,
        "it lacks decoder.conv_out.bias": without(good, "conv_out.bias"),
        "extra.weight has no place in it": good | {"extra.weight": torch.zeros(1)},
        "conv_out.weight in int32, expected floating": whole,
    }
    for says, weights in cases.items():
        save_file({key: tensor.contiguous() for key, tensor in weights.items()}, place)
        with pytest.raises(OSEDiffError, match=says):
            vae_of(micro, place)
    with pytest.raises(OSEDiffError, match=r"osediff\.pkl is .*expected the decoder of a VAE alone"):
        vae_of(micro, micro / "osediff.pkl")
    with pytest.raises(OSEDiffError, match="missing"):
        vae_of(micro, tmp_path / "missing.pth")
    with pytest.raises(OSEDiffError, match=r"lighter.pth is the decoder of a VAE alone"):
        load_base(file)
    with pytest.raises(OSEDiffError, match="is no decoder for the latents"):  # of six channels
        with_decoder(find_parts(DEMO_BASE)["vae"], file)


def test_inspect_names_it(micro, file, capsys):
    for base, says in ((micro / "tiny_sd", "fits"), (DEMO_BASE, "is no decoder for the latents of")):
        assert inspect([str(file), "--base", str(base)]) == 0
        held = next(line for line in capsys.readouterr().out.splitlines() if "on that base" in line)
        assert says in held
    assert inspect([str(file)]) == 0
    assert "the decoder of a VAE alone" in (out := capsys.readouterr().out)
    assert "--decoder" in out


def test_the_plan_counts_its_bytes(lighter, model):
    size = 160, 224
    plans = [make_plan(one, *size, runtime=Runtime()) for one in (lighter, model)]
    assert plans[0].decode[0].device_bytes < plans[1].decode[0].device_bytes
    assert plans[0].encode[0].device_bytes == plans[1].encode[0].device_bytes
    light, full = (decode_bytes(one.vae, *size, None, None)[0] for one in (lighter, model))
    assert 0.45 < light / full < 0.6
    assert encode_bytes(lighter.vae, *size, None, None) == encode_bytes(model.vae, *size, None, None)


def full_size(widths):
    """Stable Diffusion's VAE without weights, its decoder of these widths."""
    more = {"decoder_block_out_channels": widths, "use_post_quant_conv": widths is None}
    with torch.device("meta"):
        return VAE(read_config(VAEConfig, {**sd21.VAE, **more}))


def test_at_full_size_it_has_a_quarter_of_the_arithmetic():
    light, full = full_size(LIGHT_WIDTHS), full_size(None)
    z = torch.empty(1, 4, 64, 64, device="meta")
    counts = [sum(p.numel() for p in vae.decoder.parameters()) for vae in (light, full)]
    assert counts == [12_387_459, 49_490_179]
    assert 0.24 < macs(lambda: light.decode(z)) / macs(lambda: full.decode(z)) < 0.26
    assert read_config(VAEConfig, write_config(light.config)) == light.config

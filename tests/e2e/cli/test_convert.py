"""`osediff convert`: every layout from every other, and what is refused."""

import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from osediff_core import OSEDiff
from osediff_core.base.load import read_conv_in
from osediff_core.commands.cli import main
from osediff_core.tools.exports import unet_lora, vae_patch
from osediff_core.weights.checkpoint import Checkpoint, read_checkpoint, write_checkpoint


@pytest.fixture
def convert(capsys, tmp_path, monkeypatch, micro):
    """Run `osediff convert` in an empty folder that has the micro checkpoint as o.pkl."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "o.pkl").write_bytes((micro / "osediff.pkl").read_bytes())

    def run(*argv):
        status = main(["convert", *map(str, argv)])
        out, err = capsys.readouterr()
        assert out == ""
        return status, err

    return run


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("rank", [2, 4, 8, 16])
@pytest.mark.parametrize(("alpha", "name"), [(8.0, "osediff.pkl"), (4.0, "osediff_face.pkl"), (1.5, "x.pth")])
def test_there_and_back_the_strength_is_the_same(convert, micro, name, rank, alpha):
    """Over both layouts and back, for every rank and alpha, and for UNet and VAE of different ranks."""
    generator = torch.Generator().manual_seed(rank)
    source = read_checkpoint(micro / "osediff.pkl")

    def other_rank(tensors, rank):
        return {
            key: torch.randn(
                (rank, *t.shape[1:]) if "lora_A" in key else (len(t), rank, *t.shape[2:]), generator=generator
            )
            if "lora" in key
            else t
            for key, t in tensors.items()
        }

    unet, vae = other_rank(source.unet, rank), other_rank(source.vae, 2 * rank)
    first = Checkpoint(unet, vae, rank, alpha, 2 * rank, alpha / 2, {"base": "micro"})
    write_checkpoint("a.safetensors", first)
    assert convert("a.safetensors", name)[0] == 0
    assert convert(name, "b.safetensors")[0] == 0
    back = read_checkpoint("b.safetensors")
    assert (back.rank_unet, back.rank_vae, back.alpha_unet, back.alpha_vae) == (rank, 2 * rank, 8.0, 8.0)
    for part in ("unet", "vae"):
        old, new = getattr(first, part), getattr(back, part)
        factor = getattr(first, f"scale_{part}") / getattr(back, f"scale_{part}")
        assert old.keys() == new.keys()
        for key, tensor in old.items():
            want = tensor * factor if "lora_B" in key else tensor
            torch.testing.assert_close(new[key], want, rtol=1e-6, atol=0)


def test_conv_in_of_the_file_is_honoured(convert, micro):
    """The file's conv_in differs from the base's, and it is the file's that the model has."""
    base = read_conv_in(micro / "tiny_sd")
    trained = read_checkpoint("o.pkl")
    assert not torch.equal(trained.unet["conv_in.weight"], base["conv_in.weight"])
    without_lora = {k: torch.zeros_like(t) if "conv_in.lora" in k else t for k, t in trained.unet.items()}
    write_checkpoint("a.safetensors", replace(trained, unet=without_lora))
    convert("a.safetensors", "a.pkl")
    model = OSEDiff.from_pretrained(micro / "tiny_sd", "a.pkl", dtype="float32", device="cpu")
    assert torch.equal(model.unet.conv_in.weight, trained.unet["conv_in.weight"])
    assert torch.equal(model.unet.conv_in.bias, trained.unet["conv_in.bias"])
    untouched = replace(trained, unet=without_lora | base)
    write_checkpoint("b.safetensors", untouched)
    convert("b.safetensors", "b.pkl")
    model = OSEDiff.from_pretrained(micro / "tiny_sd", "b.pkl", dtype="float32", device="cpu")
    assert torch.equal(model.unet.conv_in.weight, base["conv_in.weight"])


def test_a_checkpoint_without_conv_in_gets_the_bases(convert, micro):
    trained = read_checkpoint("o.pkl")
    bare = replace(trained, unet={k: t for k, t in trained.unet.items() if "lora" in k})
    write_checkpoint("a.safetensors", bare)
    status, said = convert("a.safetensors", "a.pkl")
    assert status == 2
    assert "--base" in said
    assert not os.path.exists("a.pkl")
    status, said = convert("a.safetensors", "a.pkl", "--base", micro / "tiny_sd")
    assert status == 0
    assert "the base's own" in said
    assert torch.equal(
        read_checkpoint("a.pkl").unet["conv_in.bias"], read_conv_in(micro / "tiny_sd")["conv_in.bias"]
    )


def test_for_comfyui(convert, micro):
    status, said = convert("o.pkl", "out", "--to", "comfyui", "--base", micro / "tiny_sd")
    assert (status, said) == (
        0,
        "osediff: wrote out/o_unet_lora.safetensors: put it into models/loras, for LoraLoader\n"
        "osediff: wrote out/o_vae_encoder.safetensors: put it into models/osediff; no stock node reads it\n",
    )
    checkpoint = read_checkpoint("o.pkl")
    wanted = unet_lora(checkpoint, read_conv_in(micro / "tiny_sd"))
    assert same(load_file("out/o_unet_lora.safetensors"), wanted)
    assert same(load_file("out/o_vae_encoder.safetensors"), vae_patch(checkpoint))
    status, said = convert("o.pkl", "out", "--to", "comfyui")
    assert status == 2
    assert "--overwrite" in said
    status, said = convert("o.pkl", "out", "--to", "comfyui", "--overwrite")
    assert status == 0
    assert "use strength 1" in said
    assert same(load_file("out/o_unet_lora.safetensors"), unet_lora(checkpoint))


def test_merged(convert, micro, model):
    status, said = convert("o.pkl", "m", "--to", "merged", "--base", micro / "tiny_sd", "--dtype", "float32")
    assert status == 0
    assert "wrote m" in said
    merged = OSEDiff.from_pretrained("m", dtype="float32", device="cpu")
    assert same(merged.state_dict(), model.state_dict())


def test_restoring_with_a_merged_model_says_nothing_of_a_plain_base(
    convert, micro, monkeypatch, capsys, picture
):
    picture("a.png")
    convert("o.pkl", "m", "--to", "merged", "--base", micro / "tiny_sd")
    assert main(["a.png", "b.png", "--base", "m", "--device", "cpu"]) == 0
    assert capsys.readouterr().err == "osediff: wrote b.png\n"
    assert main(["a.png", "c.png", "--base", str(micro / "tiny_sd"), "--device", "cpu"]) == 0  # the control
    assert "never trained to restore" in capsys.readouterr().err
    assert main(["a.png", "d.png", "--base", "m", "--weights", "o.pkl", "--device", "cpu"]) == 1
    assert "merged into it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        ("o.pkl out", 2, "--to comfyui or --to merged"),
        ("o.pkl o.pkl", 2, "is the checkpoint itself"),
        ("o.pkl there.safetensors", 2, "--overwrite"),
        ("o.pkl folder.safetensors", 2, "is a folder"),
        ("o.pkl a.safetensors --to published", 2, "ends in .pkl"),
        ("o.pkl a.pkl --to osediff", 2, "ends in .safetensors"),
        ("o.pkl no/a.safetensors", 2, "no folder no"),
        ("o.pkl m --to merged", 2, "--base"),
        ("o.pkl folder.safetensors --to merged --base x", 2, "there already"),
        ("o.pkl there.safetensors --to comfyui", 2, "is a file"),
        ("o.pkl a.safetensors --dtype float32", 2, "--dtype is for --to merged"),
        ("o.pkl m --to comfyui --strength 2", 2, "--strength is for --to merged"),
        ("none.pkl a.safetensors", 1, "no checkpoint at none.pkl"),
        ("there.safetensors a.pkl", 1, "there.safetensors"),
        ("o.pkl m --to merged --base nowhere", 1, "nowhere"),
        ("o.pkl m --to comfyui --base nowhere", 1, "nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(convert, tmp_path, argv, status, says):
    (tmp_path / "there.safetensors").write_bytes(b"precious")
    (tmp_path / "folder.safetensors").mkdir()
    got, said = convert(*argv.split())
    assert (got, said.count("\n")) == (status, 1)
    assert says in said
    assert said.startswith("osediff: error: ")
    assert (tmp_path / "there.safetensors").read_bytes() == b"precious"
    assert sorted(os.listdir()) == ["folder.safetensors", "o.pkl", "there.safetensors"]


def test_quiet_says_nothing(convert):
    assert convert("o.pkl", "a.safetensors", "--quiet") == (0, "")

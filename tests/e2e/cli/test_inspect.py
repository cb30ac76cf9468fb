"""`osediff inspect`: ours, the published ones, other people's files, and broken ones."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from osediff_core.base.load import read_conv_in
from osediff_core.commands.cli import main
from osediff_core.tools.exports import write_unet_lora, write_vae_patch
from osediff_core.tools.merged import write_merged
from osediff_core.weights.checkpoint import read_checkpoint, write_checkpoint, write_published
from osediff_core.weights.recognise import CONV_IN, CROSS_ATTENTION, V_SIGN

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def inspect(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        status = main(["inspect", *map(str, argv)])
        out, err = capsys.readouterr()
        facts = {
            line.split("  ")[1].strip(): line[2:].split("  ", 1)[-1].strip()
            for line in out.splitlines()
            if line.startswith("  ")
        }
        return status, facts, out, err

    return run


@pytest.fixture
def published(micro):
    return read_checkpoint(micro / "osediff.pkl")


def test_a_published_checkpoint(inspect, micro):
    status, facts, out, err = inspect(micro / "osediff.pkl", "--base", micro / "tiny_sd")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == str(micro / "osediff.pkl")
    assert facts["is"] == "an OSEDiff checkpoint in the published layout"
    assert facts["for"] == "a base of its own (text width 16)"
    assert facts["UNet"].startswith("rank 4, alpha 8, so scale 2; 165 layers")
    assert facts["VAE encoder"].startswith("rank 4, alpha 8, so scale 2; 23 layers")
    assert facts["in full"] == "conv_in.weight, conv_in.bias"
    assert facts["trained"] == "not said in the file"
    assert facts["on that base"].startswith("fits; conv_in in full differs from the base's by up to 0.0")


def test_conv_in_that_equals_the_bases(inspect, micro, published):
    base = read_conv_in(micro / "tiny_sd")
    write_published("same.pkl", replace(published, unet=published.unet | base))
    fits = inspect("same.pkl", "--base", micro / "tiny_sd")[1]["on that base"]
    assert fits.startswith("fits; conv_in in full is equal to the base's, and its LoRA adds up to 0.")
    bare = {key: t for key, t in published.unet.items() if "lora" in key}
    write_checkpoint("bare.safetensors", replace(published, unet=bare))
    facts = inspect("bare.safetensors", "--base", micro / "tiny_sd")[1]
    assert facts["in full"] == "nothing"
    assert facts["on that base"] == "fits; conv_in is the base's"


def test_another_base_is_told(inspect, micro):
    from osediff_core.base.load import DEMO_BASE

    status, facts, _, _ = inspect(micro / "osediff.pkl", "--base", DEMO_BASE)
    assert status == 0
    assert "does not fit this base" in facts["on that base"]


def test_ours_tells_how_it_was_trained(inspect, published):
    said = {
        "base": "micro",
        "steps": "12",
        "licence": "MIT",
        "config": "[model]\nrank = 4\n",
        "date": "2026-01-02",
    }
    write_checkpoint("c.safetensors", replace(published, metadata=said, alpha_unet=6.0))
    _, facts, out, _ = inspect("c.safetensors")
    assert facts["is"] == "an OSEDiff checkpoint in this project's layout"
    assert facts["UNet"].startswith("rank 4, alpha 6, so scale 1.5")
    assert (facts["for"], facts["trained"], facts["licence"]) == ("micro", "12 steps 2026-01-02", "MIT")
    assert facts["settings"] == "2 lines; --config shows them"
    assert "rank = 4" not in out
    assert inspect("c.safetensors", "--config")[2].endswith("[model]\nrank = 4\n")


def test_exports_and_merged(inspect, micro, published):
    write_unet_lora("u.safetensors", published, read_conv_in(micro / "tiny_sd"))
    write_unet_lora("s.safetensors", published)
    write_vae_patch("v.safetensors", published)
    write_merged("m", micro / "tiny_sd", micro / "osediff.pkl")
    assert inspect("u.safetensors")[1]["is"] == "the UNet's part of an OSEDiff checkpoint, for ComfyUI"
    assert "follows the strength" in inspect("u.safetensors")[1]["conv_in"]
    assert "use strength 1" in inspect("s.safetensors")[1]["conv_in"]
    assert "VAE encoder's part" in inspect("v.safetensors")[1]["is"]
    facts = inspect("v.safetensors")[1]
    assert (facts["LoRA"], facts["for"]) == ("rank 4, alpha 8.0", "not said in the file")
    facts = inspect("m")[1]
    assert facts["is"] == "an OSEDiff model, its checkpoint merged into the base"
    assert facts["made from"] == "osediff.pkl at strength 1.0"


def sd2(v_prediction):
    """What tells Stable Diffusion 2 by, and no more."""
    torch.manual_seed(0)
    return {
        CONV_IN: torch.zeros(320, 4, 3, 3),
        CROSS_ATTENTION: torch.zeros(320, 1024),
        "model.diffusion_model.out.2.weight": torch.zeros(4, 320, 3, 3),
        V_SIGN: torch.randn(320) * (0.2 if v_prediction else 0.01),
        "first_stage_model.encoder.conv_in.weight": torch.zeros(128, 3, 3, 3),
        "cond_stage_model.model.positional_embedding": torch.zeros(77, 1024),
    }


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (sd2(False), "a base for OSEDiff, in one file"),
        (sd2(True), "768 px, which predicts velocity"),
        (sd2(False) | {CROSS_ATTENTION: torch.zeros(320, 768)}, "Stable Diffusion 1"),
        (sd2(False) | {CONV_IN: torch.zeros(320, 9, 3, 3)}, "for inpainting"),
        ({"lora_unet_x.lora_up.weight": torch.zeros(3, 2)}, "a LoRA; no checkpoint and no base of OSEDiff"),
        ({"encoder.conv_in.weight": torch.zeros(3, 3)}, "a VAE alone"),
        (
            {"visual_encoder.x.weight": torch.zeros(2), "tagging_head.encoder.layer.0.x": torch.zeros(2)},
            "RAM's",
        ),
        ({"visual_encoder.x.lora_A": torch.zeros(2)}, "DAPE's"),
        ({"whatever": torch.zeros(2)}, "a file of an unknown kind"),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_files_of_others(inspect, tensors, says, suffix):
    if suffix == "pth":
        torch.save({"model": tensors} if "visual" in min(tensors) else tensors, "f.pth")
    else:
        save_file(tensors, "f.safetensors")
    status, facts, _, err = inspect(f"f.{suffix}")
    assert (status, err) == (0, "")
    assert says in facts["is"]
    taken = any(word in says for word in ("RAM", "DAPE", "a base for"))
    assert ("used by" in facts, "keys" in facts) == (taken, not taken)
    assert " of float32" in facts["stored"]


def test_bases_and_parts_of_them(inspect, micro, tmp_path):
    facts = inspect(micro / "tiny_sd")[1]
    assert facts["is"] == "a base of its own size, for checkpoints trained on it, in the diffusers layout"
    assert facts["unet"].startswith("440 tensors of float32, ")
    shutil.copytree(micro / "tiny_sd", "half")
    shutil.rmtree("half/vae")
    assert inspect("half")[1]["is"] == "a part of a model, which lacks vae"
    shutil.copytree(micro / "tiny_sd", "v")
    config = tmp_path / "v" / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"epsilon"', '"v_prediction"'))
    assert "v-prediction" in inspect("v")[1]["is"]


def test_broken_ones_are_sentences_and_the_rest_is_told(inspect, micro, tmp_path):
    (tmp_path / "empty.pkl").touch()
    (tmp_path / "cut.pkl").write_bytes((micro / "osediff.pkl").read_bytes()[:5000])
    (tmp_path / "page.safetensors").write_text("<html>not found</html>")
    (tmp_path / "text.txt").write_text("hello " * 100)
    (tmp_path / "folder").mkdir()
    names = ["empty.pkl", "cut.pkl", "page.safetensors", "text.txt", "folder", "nowhere", "no/model"]
    status, facts, _, err = inspect(*names, micro / "osediff.pkl")
    assert status == 1
    lines = err.splitlines()
    assert len(lines) == len(names)
    for name, line in zip(names, lines, strict=True):
        assert line.startswith("osediff: error: ")
        assert name in line
    assert facts["is"] == "an OSEDiff checkpoint in the published layout"


def test_code_in_a_file_is_not_run(inspect, tmp_path):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, ("executed",)

    (tmp_path / "e.pkl").write_bytes(pickle.dumps({"state_dict_unet": Evil()}))
    status, _, out, err = inspect("e.pkl")
    assert (status, out) == (1, "")
    assert "code" in err
    assert not (tmp_path / "executed").exists()


def test_a_tagger_and_a_broken_one(inspect):
    said = {"format": "osediff-tagger", "format_version": "1", "tags": "[not json", "thresholds": "[]"}
    save_file({"label_embed": torch.zeros(2)}, "t.safetensors", said)
    status, _, out, err = inspect("t.safetensors")
    assert (status, out) == (1, "")
    assert "t.safetensors" in err


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break otherwise there")
def test_a_reader_that_has_seen_enough(micro):
    command = [sys.executable, "-m", "osediff_core", "inspect", str(micro / "osediff.pkl")]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(300), said) == (0, "")

"""Our exports in a real ComfyUI: its LoraLoader and its VAE, at the size of Stable Diffusion 2.1-base."""

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 5e-6
"""Of the largest difference, as a part of the largest value: float32, in another order."""


@pytest.fixture(scope="module", params=[64, pytest.param(320, marks=pytest.mark.slow)])
def measured(request, comfy_path, comfy_python, tmp_path_factory):
    """What export_in_comfy.py finds: ComfyUI against our own folding, on a UNet of the given width."""
    script = Path(__file__).with_name("export_in_comfy.py")
    folder = tmp_path_factory.mktemp("exports")
    command = [comfy_python, str(script), str(comfy_path), str(ROOT), str(folder), str(request.param)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_loraloader_matches_every_key_and_gives_the_same_noise(measured):
    unet = measured["unet"]
    assert unet["model_type"] == "EPS"
    assert unet["plain"] < LIMIT
    for case in ("diff 1.0", "diff 0.5", "set 1.0"):
        assert unet[f"patches {case}"] == 259, case  # 258 modules, of which conv_in has a weight and a bias
        assert unet[f"warned {case}"] == [], case
        assert unet[f"error {case}"] < LIMIT, case
    assert min(unet["effect 1.0"], unet["effect 0.5"]) > 0.1  # against the base, so there was something to do


def test_a_renamed_key_is_reported_and_changes_the_noise(measured):
    """The control."""
    unet = measured["unet"]
    assert unet["patches wrong 1.0"] == 258
    assert any(
        "lora_unet_mid_block_resnets_0_conv9.lora_up.weight" in line for line in unet["warned wrong 1.0"]
    )
    assert unet["error wrong 1.0"] > 100 * LIMIT


def test_the_vae_patch_gives_the_same_latent(measured):
    vae = measured["vae"]
    assert (vae["modules"], vae["patches"], vae["warned"]) == (32, 32, [])
    assert vae["plain"] < LIMIT
    assert vae["error"] < LIMIT
    assert vae["effect"] > 0.1

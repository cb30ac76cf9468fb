"""Where models are found; over a stand-in for ComfyUI."""

from __future__ import annotations

import json
import os
import sys

import pytest
import torch

from benchmarks.random_base import write_decoder
from osediff_core import OSEDiff, restore
from osediff_core.tools.merged import write_merged


@pytest.fixture
def paths(pack):
    return sys.modules[f"{pack.__name__}.nodes.paths"]


def test_places_from_extra_model_paths_come_first(comfy, paths, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.safetensors").write_bytes(b"")
    (elsewhere / "notes.txt").write_bytes(b"")
    comfy.folders["osediff"] = (
        [str(elsewhere)],
        set(),
    )  # as ComfyUI registers a folder unknown to it
    paths.register_model_folder()
    paths.register_model_folder()  # a second time changes nothing
    places, suffixes = comfy.folders["osediff"]
    assert places == [str(elsewhere), str(comfy.models / "osediff")]
    assert suffixes == {".safetensors", ".pkl"}
    assert list(paths.weights_paths()) == [paths.DEMO, "mine.safetensors", "osediff.pkl"]


def test_bases_are_folders_with_all_five_parts(comfy, paths, tmp_path):
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    for name, folders in {
        "sd21": parts,
        "author/sd21-base": parts,
        "sdxl": (*parts, "text_encoder_2"),
        "unfinished": parts[:3],
        "sd21/unet/strange": parts,  # never looked at: a base is not inside another one
    }.items():
        for folder in folders:
            (tmp_path / name / folder).mkdir(parents=True)
    comfy.folders["diffusers"] = ([str(tmp_path / "nowhere"), str(tmp_path)], set())
    found = paths.base_paths()
    assert list(found) == [paths.DEMO, "author/sd21-base", "sd21"]
    assert found["author/sd21-base"] == tmp_path / "author" / "sd21-base"


def test_the_first_of_two_places_with_one_name_wins(comfy, paths, tmp_path):
    for place in ("a", "b"):
        for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
            (tmp_path / place / "sd21" / part).mkdir(parents=True)
    comfy.folders["diffusers"] = ([str(tmp_path / "a"), str(tmp_path / "b")], set())
    assert paths.base_paths()["sd21"] == tmp_path / "a" / "sd21"


def test_a_replaced_file_is_loaded_again(comfy, nodes, model_folder):
    chosen = {"base": "tiny_sd", "weights": "osediff.pkl", "dtype": "auto", "strength": 1.0}
    loader = nodes["OSEDiffLoader"]
    before = loader.fingerprint_inputs(**chosen)
    assert loader.fingerprint_inputs(**chosen) == before
    for file in (
        model_folder / "osediff" / "osediff.pkl",
        model_folder / "diffusers" / "tiny_sd" / "unet" / "config.json",
    ):
        stat = file.stat()
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))
        after = loader.fingerprint_inputs(**chosen)
        assert after != before
        before = after


def test_checkpoint_files_are_listed_without_being_opened(comfy, paths, tmp_path):
    (tmp_path / "sd").mkdir()
    for name in ("v2-1_512.safetensors", "sd/old.CKPT", "sd/old.ckpt", "notes.txt", "other.pt"):
        (tmp_path / name).write_bytes(b"")
    comfy.folders["checkpoints"] = ([str(tmp_path)], {".safetensors", ".ckpt", ".CKPT", ".pt"})
    found = paths.base_paths()
    assert set(found) >= {"v2-1_512.safetensors", "sd/old.ckpt", "sd/old.CKPT"}
    assert not {"notes.txt", "other.pt"} & set(found)
    assert found["sd/old.ckpt"] == tmp_path / "sd" / "old.ckpt"


def test_bases_in_the_hub_cache_are_listed_by_their_ids(comfy, paths, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for owner, parts in {
        "a": ("unet", "vae", "text_encoder", "tokenizer", "scheduler"),
        "b": ("unet",),
    }.items():
        place = tmp_path / f"models--{owner}--sd21-base"
        for part in parts:
            (place / "snapshots" / "0123" / part).mkdir(parents=True)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("0123")
    found = paths.base_paths()
    assert found["a/sd21-base (hub cache)"] == tmp_path / "models--a--sd21-base" / "snapshots" / "0123"
    assert "b/sd21-base (hub cache)" not in found


def test_the_vocabulary_is_the_one_that_comfyui_brings(comfy, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(paths.comfy, "__path__", [str(tmp_path / "none"), str(tmp_path)])
    assert paths.vocabulary_folder() is None
    (tmp_path / "sd1_tokenizer").mkdir()
    (tmp_path / "sd1_tokenizer" / "vocab.json").write_text("{}")
    assert paths.vocabulary_folder() == tmp_path / "sd1_tokenizer"


@pytest.mark.parametrize("name", ["sdxl.safetensors", "half.safetensors"])
def test_a_checkpoint_that_is_no_base_is_a_sentence_on_the_node(comfy, nodes, tmp_path, name):
    import torch
    from safetensors.torch import save_file

    file = tmp_path / name
    save_file({"conditioner.embedders.0.x": torch.zeros(2)}, file)
    if name == "half.safetensors":
        os.truncate(file, file.stat().st_size - 2)
    comfy.folders["checkpoints"] = ([str(tmp_path)], {".safetensors"})
    inputs = {"base": name, "weights": "osediff.pkl", "dtype": "float32", "strength": 1.0}
    with pytest.raises(Exception, match=r"is Stable Diffusion XL|is cut off"):
        nodes["OSEDiffLoader"].run(**inputs)


def test_a_merged_base_needs_no_weights_and_others_do(comfy, nodes, model, model_folder, photo, tmp_path):
    micro = model_folder / "diffusers" / "tiny_sd"
    write_merged(tmp_path / "mine", micro, model_folder / "osediff" / "osediff.pkl", dtype=torch.float32)
    comfy.folders["diffusers"] = ([str(tmp_path), str(micro.parent)], set())
    loader, inputs = nodes["OSEDiffLoader"], {"dtype": "float32", "strength": 1.0}
    none = "none (merged into the base)"
    merged = loader.run(base="mine", weights=none, **inputs).args[0]
    settings = {"image": photo(9, 7), "scale": 2.0, "prompt": "", "color": "adain", "tile": "auto"}
    result, wanted = (nodes["OSEDiffUpscale"].run(model=m, **settings).args[0] for m in (merged, model))
    assert (result - wanted).abs().max() < 1e-5
    assert loader.fingerprint_inputs(base="mine", weights=none, **inputs)
    with pytest.raises(Exception, match="cannot restore: choose weights"):
        loader.run(base="tiny_sd", weights=none, **inputs)


def test_a_decoder_of_other_widths_takes_the_place_of_the_bases(comfy, nodes, model_folder, photo, tmp_path):
    micro = model_folder / "diffusers" / "tiny_sd"
    file, weights = tmp_path / "lighter.pth", model_folder / "osediff" / "osediff.pkl"
    write_decoder(file, json.loads((micro / "vae" / "config.json").read_text()), (4, 4, 8, 8))
    loader, inputs = nodes["OSEDiffLoader"], {"base": "tiny_sd", "weights": "osediff.pkl", "strength": 1.0}
    inputs["dtype"] = "float32"
    with pytest.raises(Exception, match=r"'lighter.pth' is not there: choose one of the base's own"):
        loader.run(**inputs, decoder="lighter.pth")
    comfy.folders["osediff_decoder"] = ([str(tmp_path)], {".safetensors", ".pth"})
    assert loader.define_schema().inputs[-1].arguments["options"] == ["the base's own", "lighter.pth"]
    settings = {"image": photo(9, 7), "scale": 2.0, "prompt": "", "color": "adain", "tile": "auto"}
    model = loader.run(**inputs, decoder="lighter.pth").args[0]
    found = nodes["OSEDiffUpscale"].run(model=model, **settings).args[0]  # (1, H, W, 3)
    core = OSEDiff.from_pretrained(micro, weights, decoder=file, device="cpu", dtype="float32")
    pixels = (settings["image"] * 255).round().to(torch.uint8).movedim(-1, 1)  # (1, 3, h, w)
    assert torch.equal(found.movedim(-1, 1), restore(core, pixels, scale=2.0))
    before = loader.fingerprint_inputs(**inputs, decoder="lighter.pth")
    os.utime(file, ns=(0, 0))
    assert loader.fingerprint_inputs(**inputs, decoder="lighter.pth") != before
    assert loader.fingerprint_inputs(**inputs) != before

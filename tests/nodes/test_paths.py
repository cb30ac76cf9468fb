"""Where models are found; over a stand-in for ComfyUI."""

from __future__ import annotations

import os
import sys

import pytest


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

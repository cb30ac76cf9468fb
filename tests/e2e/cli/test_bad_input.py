"""What bad input gets on the command line: one sentence, a status, and nothing lost."""

from __future__ import annotations

import errno
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core import OSEDiff, restore, whole_files
from osediff_core.commands import restore_files as batch
from osediff_core.commands.cli import main

MICRO = Path(__file__).resolve().parents[2] / "golden_micro"
MODEL = ["--base", str(MICRO / "tiny_sd"), "--weights", str(MICRO / "osediff.pkl"), "--device", "cpu"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["none.png", "b.png"], "no file or folder none.png"),
        (["empty", "out"], "holds no picture"),
        (["in", "in"], "name another folder"),
        (["in", "in/../in"], "name another folder"),
        (["in", "a.png"], "is a folder"),
        (["in", "b.png"], "is a folder"),
        (["a.png", "b.gif"], "names no format"),
        (["a.png", "b.png", "--format", "jpg"], "disagree"),
        (["a.png", "a.png/b.png"], "cannot be used"),
        (["in", "a.png/out"], "cannot be used"),
    ],
)
def test_what_cannot_be_meant(osediff, tmp_path, argv, says, picture, tree):
    picture("a.png")
    picture("in/a.png")
    (tmp_path / "empty").mkdir()
    before = tree()
    status, said = osediff(*argv)
    assert status == 2
    assert says in said
    assert said.count("\n") == 1
    assert tree() == before


@pytest.mark.parametrize(
    "options",
    [
        *("--scale 0", "--scale 0.5", "--scale nan", "--scale inf", "--scale x", "--scales 2"),
        *("--tile 0", "--tile x", "--overlap -1", "--quality 0", "--quality 101"),
        *("--color red", "--dtype int8", "--strength nan", "--format gif"),
    ],
)
def test_values_that_cannot_be(capsys, options):
    with pytest.raises(SystemExit) as stop:
        main(["a.png", "b.png", *options.split()])
    assert stop.value.code == 2
    assert options.split()[0] in capsys.readouterr().err


def code_in_a_pickle(path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (path.with_name("executed"),))

    path.write_bytes(pickle.dumps({"state_dict_unet": Evil()}))


def other_base(path):
    saved = torch.load(MICRO / "osediff.pkl", weights_only=True)
    saved["state_dict_unet"] = {
        key: torch.zeros(tensor.shape[0], tensor.shape[1] + 1, *tensor.shape[2:])
        if "lora_A" in key
        else tensor
        for key, tensor in saved["state_dict_unet"].items()
    }
    torch.save(saved, path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_bytes(b""), "w.pkl"),
        (lambda path: path.write_bytes((MICRO / "osediff.pkl").read_bytes()[:9999]), "w.pkl"),
        (code_in_a_pickle, "w.pkl"),
        (other_base, "lora_A|conv_in|shape"),
    ],
    ids=["empty", "cut off", "with code in it", "of another base"],
)
def test_checkpoints_that_cannot_be_loaded(tmp_path, monkeypatch, capsys, make, says, picture):
    monkeypatch.chdir(tmp_path)
    picture("a.png")
    make(tmp_path / "w.pkl")
    assert main(["a.png", "b.png", "--base", str(MICRO / "tiny_sd"), "--weights", "w.pkl"]) == 1
    said = capsys.readouterr().err
    assert re.search(says, said)
    assert said.startswith("osediff: error: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "b.png").exists()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("option", ["weights", "tagger", "vocabulary", "decoder"])
def test_a_file_that_is_not_there_is_told_before_anything_is_loaded(
    osediff, picture, monkeypatch, micro_options, option
):
    picture("a.png")
    monkeypatch.setattr(OSEDiff, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    status, said = osediff("a.png", "b.png", *micro_options, f"--{option}", "nowhere")
    assert status == 2
    assert f"--{option} names nowhere, which is not there" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--weights", str(MICRO / "osediff.pkl")], "base"),
        (["--base", "nowhere"], "nowhere"),
        ([*MODEL, "--device", "abacus"], "abacus"),
        ([*MODEL, "--tile", "8", "--overlap", "8"], "overlap"),
        ([*MODEL, "--overlap", "200"], "overlap"),
    ],
)
def test_models_that_cannot_be_had(tmp_path, monkeypatch, capsys, options, says, picture):
    monkeypatch.chdir(tmp_path)
    picture("a.png")
    assert main(["a.png", "b.png", *options]) == 1
    assert re.search(f"error: .*{says}", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        *[(mode, (7, 5)) for mode in ("L", "1", "P", "CMYK", "LA", "I;16", "F")],
        *[("RGB", (1, 1)), ("RGB", (1, 4000)), ("RGBA", (4000, 1))],
    ],
)
def test_every_kind_and_size_comes_out_at_exactly_the_size(osediff, tmp_path, mode, size, picture, size_of):
    if mode == "I;16":
        Image.fromarray(np.full(size[::-1], 40000, np.uint16)).save(tmp_path / "a.tif")
    else:
        picture("a.tif", size, mode)
    assert osediff("a.tif", "b.png", "--scale", "2", "--tile", "64")[0] == 0
    assert size_of("b.png") == (2 * size[0], 2 * size[1])


def test_a_picture_of_nan_is_named(osediff, tmp_path, tree):
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "a.tif")
    status, said = osediff("a.tif", "b.png")
    assert status == 1
    assert "a.tif has pixels that are not finite" in said
    assert "wrote" not in said
    assert tree() == ["a.tif"]


def test_a_model_that_gives_nan_saves_nothing(osediff, model, monkeypatch, picture, tree):
    picture("a.png")
    monkeypatch.setattr(model, "decoder_layers", lambda: [lambda z: torch.full((1, 3, 32, 40), torch.nan)])
    status, said = osediff("a.png", "b.png")
    assert status == 1
    assert "not finite" in said
    assert tree() == ["a.png"]


def test_a_full_disk(osediff, monkeypatch, picture, tree):
    picture("in/a.png")
    picture("in/b.png")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(whole_files.os, "fsync", full)
    status, said = osediff("in", "out")
    assert status == 1
    assert said.count("No space left on device; make room") == 2
    assert tree("out") == []


def test_a_folder_that_refuses_is_found_before_the_model_is_loaded(tmp_path, monkeypatch, capsys, picture):
    def refuse(self, *args, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.chdir(tmp_path)
    picture("a.png")
    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(OSEDiff, "from_pretrained", lambda *args, **options: pytest.fail("loaded"))
    assert main(["a.png", "b.png"]) == 2
    assert "cannot write into the folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory"),
    ],
)
def test_too_little_memory(osediff, monkeypatch, error, picture):
    def restore_nothing(*args, **options):
        raise error

    picture("a.png")
    monkeypatch.setattr(batch, "restore", restore_nothing)
    status, said = osediff("a.png", "b.png")
    assert status == 1
    assert "a.png: there is not enough memory" in said


def test_an_error_of_ours_is_shown_in_full_and_does_not_stop_a_folder(osediff, monkeypatch, picture):
    def broken(*args, **options):
        raise KeyError("ours")

    picture("in/a.png")
    picture("in/b.png")
    monkeypatch.setattr(batch, "restore", broken)
    with pytest.raises(KeyError):
        osediff("in/a.png", "b.png")
    status, said = osediff("in", "out")
    assert status == 1
    assert said.count("KeyError: 'ours' (unforeseen") == 2


def test_webp_that_would_be_too_large_is_found_before_the_work(osediff, monkeypatch, picture):
    picture("a.png", (5000, 1))
    monkeypatch.setattr(batch, "restore", lambda *args, **options: pytest.fail("worked"))
    status, said = osediff("a.png", "b.webp")
    assert status == 2
    assert "at most 16383" in said


def test_interrupting_says_how_far_it_got(osediff, monkeypatch, picture, tree):
    count = 0

    def stop_at_the_second(*args, **options):
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return restore(*args, **options)

    for name in "abc":
        picture(f"in/{name}.png")
    monkeypatch.setattr(batch, "restore", stop_at_the_second)
    status, said = osediff("in", "out")
    assert status == 130
    assert said.endswith("osediff: interrupted; 1 of 3 done\n")
    assert tree("out") == ["a.png"]

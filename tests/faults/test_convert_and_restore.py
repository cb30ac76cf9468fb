"""`osediff convert` and `osediff IN OUT`, killed at any moment and on a disk that takes no more."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from osediff_core import whole_files
from osediff_core.base.load import read_conv_in
from osediff_core.commands.cli import main
from osediff_core.tools.exports import unet_lora, vae_patch
from osediff_core.weights.checkpoint import read_checkpoint

resource = pytest.importorskip("resource", reason="Windows limits no files")

ROOT = Path(__file__).resolve().parents[2]
MICRO = ROOT / "tests" / "golden_micro"
WEIGHTS, BASE = MICRO / "osediff.pkl", MICRO / "tiny_sd"
EXPORT = ["convert", WEIGHTS, "out", "--to", "comfyui", "--base", BASE]
WORK = {
    "osediff": ["convert", WEIGHTS, "out.safetensors"],
    "published": ["convert", WEIGHTS, "out.pkl"],
    "comfyui": EXPORT,
    "merged": ["convert", WEIGHTS, "out", "--to", "merged", "--base", BASE],
    "restore": ["in", "out", "--base", BASE, "--weights", WEIGHTS, "--device", "cpu"],
}


def start(folder, argv, limit=None):
    """Start the program in a folder; limit: bytes that a file may have."""

    def lower():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-m", "osediff_core", *map(str, argv)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=None if limit is None else lower,
    )


def run(folder, argv, limit=None):
    with start(folder, argv, limit) as process:
        _, err = process.communicate(timeout=300)
    assert "Traceback" not in err
    return process.returncode, err


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "abc":
        Image.effect_noise((24, 16), 50).convert("RGB").save(tmp_path / "in" / f"{name}.png")
    return tmp_path


OFTEN = ("published",)  # the others of a kind are slow


@pytest.mark.parametrize(
    "work", [pytest.param(work, marks=() if work in OFTEN else pytest.mark.slow) for work in WORK]
)
def test_a_file_that_cannot_grow(folder, work):
    """Nothing is left of what could not be written, the sentence says why, and the next run ends well."""
    before = files(folder)
    status, err = run(folder, WORK[work], limit=2000)
    assert status == 1
    assert os.strerror(27) in err
    assert "name another place" in err
    assert ".part" not in err
    assert files(folder) == before
    assert run(folder, WORK[work])[0] == 0


@pytest.mark.parametrize("work", ["osediff", "published"])
def test_an_old_file_survives_a_full_disk(folder, work):
    (folder / WORK[work][2]).write_bytes(b"old")
    status, err = run(folder, [*WORK[work], "--overwrite"], limit=2000)
    assert status == 1, err
    assert (folder / WORK[work][2]).read_bytes() == b"old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a file that is always full")
def test_a_full_disk_behind_stdout(folder):
    with open("/dev/full", "w") as full:
        argv = [sys.executable, "-m", "osediff_core", "inspect", str(WEIGHTS)]
        done = subprocess.run(argv, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "osediff: error: stdout could not be written: No space left on device; make room and start again\n"
    )


def told_by_a_library(path):
    raise RuntimeError("file write failed")  # as torch does, without a reason


def test_a_full_disk_that_a_library_keeps_to_itself(tmp_path, monkeypatch):
    def full(place):
        return OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(whole_files, "_try", full)
        with pytest.raises(whole_files.OSEDiffError, match="No space left on device; make room"):
            whole_files.write_beside(tmp_path / "a", told_by_a_library)
    with pytest.raises(
        whole_files.OSEDiffError, match="file write failed"
    ):  # the disk takes more: another fault
        whole_files.write_beside(tmp_path / "a", told_by_a_library)
    assert list(tmp_path.iterdir()) == []


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def is_whole_export(folder):
    checkpoint = read_checkpoint(WEIGHTS)
    wanted = {
        "osediff_unet_lora.safetensors": unet_lora(checkpoint, read_conv_in(BASE)),
        "osediff_vae_encoder.safetensors": vae_patch(checkpoint),
    }
    return files(folder) == set(wanted) and all(same(load_file(folder / n), t) for n, t in wanted.items())


@pytest.mark.parametrize("missing", ["osediff_unet_lora.safetensors", "osediff_vae_encoder.safetensors"])
def test_half_an_export_is_completed(folder, monkeypatch, missing):
    monkeypatch.chdir(folder)
    argv = [str(part) for part in EXPORT]
    assert main(argv) == 0
    (folder / "out" / missing).unlink()
    assert main(argv) == 0
    assert is_whole_export(folder / "out")


def test_half_of_another_export_is_not_replaced(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    argv = [str(part) for part in EXPORT]
    assert main(argv[:-2]) == 0  # without the base, the LoRA is another
    (folder / "out" / "osediff_vae_encoder.safetensors").unlink()
    was = (folder / "out" / "osediff_unet_lora.safetensors").read_bytes()
    capsys.readouterr()
    assert main(argv) == 1
    assert "another one" in capsys.readouterr().err
    assert (folder / "out" / "osediff_unet_lora.safetensors").read_bytes() == was
    assert main([*argv, "--overwrite"]) == 0
    assert is_whole_export(folder / "out")


def test_the_second_file_cannot_be_put_in_place(folder, monkeypatch):
    """As on Windows, where another program holds it: then the first is as it was, too."""
    monkeypatch.chdir(folder)
    argv = [str(part) for part in EXPORT]
    assert main(argv[:-2]) == 0
    was = {name: (folder / "out" / name).read_bytes() for name in files(folder / "out")}
    replace = os.replace

    def held(source, target):
        if Path(target).name == "osediff_vae_encoder.safetensors":
            raise PermissionError(13, os.strerror(13))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(whole_files.os, "replace", held)
        assert main([*argv, "--overwrite"]) == 1
    assert {name: (folder / "out" / name).read_bytes() for name in files(folder / "out")} == was


def kill_at_any_moment(folder, argv, seconds, draw):
    with start(folder, argv) as process:
        time.sleep(draw.uniform(0.3, seconds))
        process.kill()


def whole_or_absent(folder):
    """Whether everything under a name of its own can be read to its end."""
    for path in folder.rglob("*"):
        if any(part.endswith(".part") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".pkl":
            read_checkpoint(path)


def killed_and_then_not(folder, work, draw):
    argv = WORK[work]
    began = time.monotonic()
    assert run(folder, argv)[0] == 0  # how long it takes, and what there is in the end
    seconds = time.monotonic() - began
    wanted = files(folder)
    subprocess.run(
        ["rm", "-r", *{name.split("/")[0] for name in wanted if name.startswith("out")}], cwd=folder
    )
    for _ in range(3):
        kill_at_any_moment(folder, argv, seconds, draw)
        whole_or_absent(folder)
    # What was finished before the kill is not begun again: a folder run leaves it, a conversion refuses.
    status, err = run(folder, argv)
    assert status == 0 or "there already" in err
    whole_or_absent(folder)
    assert files(folder) == wanted


@pytest.mark.slow
def test_a_killed_export(folder):
    killed_and_then_not(folder, "comfyui", random.Random(0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("work", WORK)
def test_kills_at_any_moment(folder, work, seed):
    killed_and_then_not(folder, work, random.Random(seed))

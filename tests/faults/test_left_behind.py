"""What killed processes leave is swept by the next run; what others are at, and what is not ours, stays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

from osediff_core.pictures.jobs import Rules, find_jobs
from osediff_core.whole_files import IDLE, NOBODY, name_beside, sweep

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no way to ask for a process")


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def of(path, number):
    """The name of what a process of this machine with that number writes beside `path`."""
    machine = re.match(r"\.osediff-([0-9a-f]{8})-", name_beside(path).name)[1]
    return name_beside(path, owner=f"{machine}-{number}")


def elsewhere(path):
    return name_beside(path, owner=f"fedcba98-{os.getpid()}")


def aged(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


@posix
def test_of_a_dead_process_and_of_a_living_one(tmp_path, dead):
    gone, there = of(tmp_path / "a", dead), of(tmp_path / "a", os.getppid())
    folder = of(tmp_path / "a", dead)
    gone.touch()
    there.touch()
    aged(there, 10 * IDLE)
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").touch()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [there]


def test_of_another_machine(tmp_path):
    recent, old = elsewhere(tmp_path / "a"), elsewhere(tmp_path / "a")
    recent.touch()
    old.touch()
    aged(old, IDLE + 60)
    busy = elsewhere(tmp_path / "a")
    busy.mkdir()
    (busy / "a").touch()
    aged(busy, IDLE + 60)  # the folder is old, and what is in it is not
    sweep(tmp_path)
    assert set(tmp_path.iterdir()) == {recent, busy}


def test_what_is_not_ours(tmp_path):
    names = ["a.part", ".osediff.part", ".osediff-notes.part", ".osediff-x-1-2.part", ".a.safetensors.part"]
    for name in names:
        (tmp_path / name).touch()
        aged(tmp_path / name, 100 * IDLE)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "a").touch()
    name_beside(tmp_path / "a", owner=NOBODY).symlink_to(precious)
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names, "precious"}  # the link went, not its end
    assert (precious / "a").exists()


def test_parts_of_downloads_are_not_swept_by_other_runs(tmp_path):
    part = name_beside(tmp_path / "a", "0123abcd", NOBODY)
    part.touch()
    sweep(tmp_path)
    assert part.exists()
    sweep(tmp_path, "0123[0-9a-f]+")
    assert not part.exists()


def test_a_run_sweeps_where_it_writes_and_one_that_only_looks_does_not(tmp_path):
    from PIL import Image

    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / name)
    left = [name_beside(tmp_path / "out" / name, owner=NOBODY) for name in ("a.png", "deep/b.png")]
    for path in left:
        path.touch()
    find_jobs(str(tmp_path / "in"), str(tmp_path / "out"), Rules(recursive=True, look_only=True))
    assert all(path.exists() for path in left)
    find_jobs(str(tmp_path / "in"), str(tmp_path / "out"), Rules(recursive=True))
    assert not any(path.exists() for path in left)

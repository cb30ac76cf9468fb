"""Folder runs: reading ahead and writing behind change neither results nor reports."""

import os
import threading
import weakref

import numpy as np
import pytest
from PIL import Image

from osediff_core import restore
from osediff_core.commands import restore_files as batch
from osediff_core.commands.restore_files import Settings, restore_files
from osediff_core.errors import OSEDiffError
from osediff_core.pictures.jobs import Job
from osediff_core.sizes import Size


@pytest.fixture
def jobs(tmp_path):
    """Six pictures of 8 x 6 pixels, each of its own colours."""
    made = []
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        made.append(Job(tmp_path / f"{i}.png", tmp_path / f"out_{i}.png"))
    return made


def run(model, jobs, **settings):
    return list(restore_files(model, jobs, Settings(size=Size(value=1), **settings), lambda job: None))


def written(jobs):
    return [os.path.exists(job.target) for job in jobs]


def test_every_picture_is_what_it_is_alone(model, jobs):
    assert run(model, jobs) == [(job, None) for job in jobs]
    for job in jobs:
        alone = job.target.with_name("alone.png")
        assert run(model, [Job(job.source, alone)]) == [(Job(job.source, alone), None)]
        assert job.target.read_bytes() == alone.read_bytes()
    assert run(model, []) == []


def test_reading_and_writing_go_on_during_the_work(model, jobs, monkeypatch):
    """The work on a picture waits for the next to be read and the last to be written: a queue would hang."""
    read, wrote = [threading.Event() for _ in range(7)], [threading.Event() for _ in range(6)]
    place = {path: i for i, job in enumerate(jobs) for path in (job.source, job.target)}
    reader, writer, order = batch.read_image, batch.write_image, []

    def read_image(path, **options):
        picture = reader(path, **options)
        read[place[path]].set()
        return picture

    def write_image(path, *args, **options):
        writer(path, *args, **options)
        wrote[place[path]].set()

    def work(*args, **options):
        i = len(order)
        order.append(i)
        assert i == 5 or read[i + 1].wait(60)
        assert i == 0 or wrote[i - 1].wait(60)
        assert not read[min(i + 2, 6)].is_set()  # no further ahead
        return restore(*args, **options)

    monkeypatch.setattr(batch, "read_image", read_image)
    monkeypatch.setattr(batch, "write_image", write_image)
    monkeypatch.setattr(batch, "restore", work)
    assert run(model, jobs) == [(job, None) for job in jobs]


def test_errors_stay_with_their_pictures(model, jobs, monkeypatch):
    jobs[1].source.write_bytes(b"no picture")
    writer = batch.write_image
    count = iter(range(6))

    def write_image(path, *args, **options):
        if path == jobs[3].target:
            raise OSEDiffError("the disk is full")
        return writer(path, *args, **options)

    def work(*args, **options):
        if next(count) == 3:  # the fifth, for the second could not be read
            raise ZeroDivisionError("odd")
        return restore(*args, **options)

    monkeypatch.setattr(batch, "write_image", write_image)
    monkeypatch.setattr(batch, "restore", work)
    results = run(model, jobs)
    assert [job for job, _ in results] == jobs
    reasons = [reason for _, reason in results]
    assert [reason is None for reason in reasons] == [True, False, True, False, False, True]
    assert "1.png is not a picture" in str(reasons[1])
    assert reasons[3] == "the disk is full"
    assert "ZeroDivisionError: odd (unforeseen" in str(reasons[4])
    assert written(jobs) == [True, False, True, False, False, True]


@pytest.mark.parametrize("name", ["read_image", "restore", "write_image"])
def test_the_unforeseen_is_shown_in_full_where_there_is_one_picture(model, jobs, monkeypatch, name):
    def odd(*args, **options):
        raise ZeroDivisionError

    monkeypatch.setattr(batch, name, odd)
    with pytest.raises(ZeroDivisionError):
        run(model, jobs[:1])


def test_an_interrupt_writes_what_is_restored_and_leaves_nothing_else(model, jobs, monkeypatch, tmp_path):
    count = iter(range(6))

    def work(*args, **options):
        if next(count) == 3:
            raise KeyboardInterrupt
        return restore(*args, **options)

    monkeypatch.setattr(batch, "restore", work)
    with pytest.raises(KeyboardInterrupt):
        run(model, jobs)
    assert written(jobs) == [True] * 3 + [False] * 3
    assert len(list(tmp_path.iterdir())) == 6 + 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("reader", "writer"))]


def test_what_was_written_before_an_interrupt_is_counted(model, jobs, monkeypatch):
    count = iter(range(6))

    def work(*args, **options):
        if next(count) == 2:
            raise KeyboardInterrupt
        return restore(*args, **options)

    monkeypatch.setattr(batch, "restore", work)
    seen = []
    try:
        for result in restore_files(model, jobs, Settings(size=Size(value=1)), lambda job: None):
            seen.append(result)
    except KeyboardInterrupt:
        pass
    assert seen == [(job, None) for job in jobs[:2]]


def test_leaving_early_leaves_whole_files(model, jobs, tmp_path):
    results = restore_files(model, jobs, Settings(size=Size(value=1)), lambda job: None)
    assert next(results) == (jobs[0], None)
    results.close()  # type: ignore[attr-defined]
    assert written(jobs)[:2] == [True, True]
    assert not list(tmp_path.glob("*.part"))


def test_two_results_at_most_are_in_memory(model, jobs, monkeypatch):
    results, most = [], []

    def work(*args, **options):
        out = restore(*args, **options)
        results.append(weakref.ref(out))
        most.append(sum(result() is not None for result in results))
        return out

    monkeypatch.setattr(batch, "restore", work)
    run(model, jobs)
    assert max(most) <= 2  # this one, and the one being written

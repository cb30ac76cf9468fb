"""Several `osediff fetch` at once, and after one that was killed: what is there in the end is the file."""

from __future__ import annotations

import random
import shutil
import time

import pytest

from ..e2e.fetch.running import errors, finish, parts, size, small_hub, start, whole


@pytest.fixture
def hub(tmp_path):
    with small_hub() as hub:
        yield hub
    for folder in tmp_path.iterdir():  # pytest keeps what tests leave, and this is large
        shutil.rmtree(folder)


def begun(folder, process):
    """Wait until a part of the large file has grown."""
    limit = time.monotonic() + 60
    while not any(size(path) > 1 << 20 for path in parts(folder)):
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.01)


PLACES = pytest.mark.parametrize("to", [["--to", "x"], []], ids=["folder", "cache"])


def check(folder, to):
    if to:
        assert whole(folder / "x" / "model")
    else:
        (snapshot,) = (folder / "hf" / "hub" / "models--one--model" / "snapshots").iterdir()
        assert whole(snapshot)
    assert not parts(folder)


def together(hub, folder, to, count, pause):
    """Let so many begin `pause()` seconds apart, all of which must end well."""
    running = []
    for _ in range(count):
        running.append(start(hub, folder, "fetch", "model", "--yes", *to))
        time.sleep(pause())
    for process in running:
        status, _, err = finish(process)
        assert status == 0, err
    check(folder, to)


@PLACES
def test_two_at_once(hub, tmp_path, to):
    hub.files["one/model/unet/model.safetensors"].wait = 0.002
    together(hub, tmp_path, to, 2, lambda: 0.0)


@pytest.mark.slow
@PLACES
@pytest.mark.parametrize("seed", range(10))
def test_three_at_once_many_times(hub, tmp_path, to, seed):
    hub.files["one/model/unet/model.safetensors"].wait = 0.002
    draw = random.Random(seed)
    together(hub, tmp_path, to, 3, lambda: draw.uniform(0, 1.0))


@PLACES
def test_one_begins_where_a_killed_one_stopped_and_not_at_a_living_ones_part(hub, tmp_path, to):
    file = hub.files["one/model/unet/model.safetensors"]
    file.wait = 0.03
    with start(hub, tmp_path, "fetch", "model", "--yes", *to) as killed:
        begun(tmp_path, killed)
        killed.kill()
    (left,) = parts(tmp_path)
    with start(hub, tmp_path, "fetch", "model", "--yes", *to) as living:
        limit = time.monotonic() + 60
        while left.exists():  # the second takes it up under a name of its own
            assert time.monotonic() < limit
            time.sleep(0.01)
        hub.asked.clear()
        file.wait = 0.0
        third = finish(start(hub, tmp_path, "fetch", "model", "--yes", *to))
        living.communicate(timeout=60)
    assert (third[0], living.returncode) == (0, 0), third[2]
    assert hub.ranges()[-1] is None  # the third had nothing to go on from
    check(tmp_path, to)


@PLACES
def test_a_disk_that_takes_no_more(hub, tmp_path, to):
    """It is not taken for a hub that broke off, and the next run goes on from what there was room for."""
    resource = pytest.importorskip("resource", reason="Windows limits no files")
    limit = 3_500_000

    def lower():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    status, _, err = finish(start(hub, tmp_path, "fetch", "model", "--yes", *to, before=lower))
    assert status == 1
    (sentence,) = errors(err)
    assert "File too large" in sentence
    assert "connection" not in sentence
    hub.asked.clear()
    assert finish(start(hub, tmp_path, "fetch", "model", "--yes", *to))[0] == 0
    assert hub.ranges()[0] in {f"bytes={limit}-", f"bytes={3 << 20}-"}
    check(tmp_path, to)


@pytest.mark.slow
@PLACES
@pytest.mark.parametrize("seed", range(20))
def test_kills_at_any_moment(hub, tmp_path, to, seed):
    """However often it is killed, the next run ends the matter."""
    draw = random.Random(seed)
    hub.files["one/model/unet/model.safetensors"].wait = 0.02
    for _ in range(3):
        with start(hub, tmp_path, "fetch", "model", "--yes", *to) as process:
            time.sleep(draw.uniform(0.3, 2.5))
            process.kill()
    hub.files["one/model/unet/model.safetensors"].wait = 0.0
    status, _, err = finish(start(hub, tmp_path, "fetch", "model", "--yes", *to))
    assert status == 0, err
    check(tmp_path, to)

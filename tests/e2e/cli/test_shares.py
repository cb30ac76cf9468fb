"""A folder divided among processes: each resumes for itself, and the last one reports for all."""

import os
import signal
import subprocess
import sys
import time

import pytest

from osediff_core import OSEDiffError
from osediff_core.commands.processes import Outcome, Process, device_of, forget, join, this_process
from osediff_core.pictures.jobs import Rules, find_jobs


def process(rank, count, options, *more):
    """Start one process of several, as a launcher would."""
    environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    command = [sys.executable, "-m", "osediff_core", "in", "out", *options, *more]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_one_killed_and_started_again(tmp_path, monkeypatch, picture, micro_options):
    for number in range(7):
        picture(f"in/{number}.png")
    (tmp_path / "in/broken.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    killed = process(1, 2, micro_options)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("out/*.png")) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    before = {path.name for path in tmp_path.glob("out/*.png")}
    assert before <= {"1.png", "3.png", "5.png"} | {"broken.png"}
    assert before

    first = process(0, 2, micro_options)
    _, said_first = first.communicate()
    assert "the last of 2 reports" in said_first
    assert "failed" not in said_first
    second = process(1, 2, micro_options)
    _, said = second.communicate()
    results = {path.name for path in tmp_path.glob("out/*")}
    assert results == {f"{number}.png" for number in range(7)}, "all pictures, no part files"
    assert (first.returncode, second.returncode) == (0, 1)
    assert f"{7 - len(before)} restored, {len(before)} there already, 1 failed" in said
    assert said.count("error: in/broken.png") == 1


def outcome(name, restored=1):
    return Outcome(restored, 2, [f"{name} failed"])


def test_the_last_one_reports_and_leaves_nothing(tmp_path):
    assert join(tmp_path, Process(2, 3), outcome("c")) is None
    assert join(tmp_path, Process(0, 3), outcome("a")) is None
    assert join(tmp_path, Process(1, 3), outcome("b", 5)) == Outcome(
        7, 6, ["a failed", "b failed", "c failed"]
    )
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_report_of_a_process_that_starts_again_does_not_count(tmp_path):
    join(tmp_path, Process(0, 2), outcome("old"))
    forget(tmp_path, Process(0, 2))
    assert join(tmp_path, Process(1, 2), outcome("b")) is None
    assert join(tmp_path, Process(0, 2), outcome("new")).failures == ["new failed", "b failed"]


def test_shares_do_not_depend_on_what_is_there(tmp_path, picture, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        picture(f"in/{number}.png")

    def mine(rank, count=2):
        plan = find_jobs("in", "out", Rules(share=(rank, count)))
        return [job.source.name for job in plan.todo], plan.already

    assert (mine(0), mine(1)) == ((["0.png", "2.png", "4.png"], 0), (["1.png", "3.png"], 0))
    (tmp_path / "out/0.png").write_bytes(b"done")
    assert (mine(0), mine(1)) == ((["2.png", "4.png"], 1), (["1.png", "3.png"], 0))
    assert mine(6, 7) == ([], 0)
    assert find_jobs("in/0.png", "x.png", Rules(share=(1, 2))).todo == []


@pytest.mark.parametrize(
    "environment",
    [{"RANK": "x"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "-1"}, {"WORLD_SIZE": "0"}, {"RANK": "1"}],
)
def test_impossible_shares_are_refused(environment):
    with pytest.raises(OSEDiffError, match="RANK"):
        this_process(environment)


def test_a_share_and_its_card(monkeypatch):
    assert this_process({}) == Process(0, 1, 0)
    assert this_process({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Process(5, 8, 1)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    devices = [
        device_of(Process(5, 8, 1), "auto"),
        device_of(Process(5, 8, 1), "cpu"),
        device_of(Process(), "auto"),
    ]
    assert devices == ["cuda:1", "cpu", "auto"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert device_of(Process(5, 8, 1), "auto") == "auto"

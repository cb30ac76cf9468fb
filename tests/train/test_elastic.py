"""torchrun starts all processes again where one is killed; they end as a run that was never disturbed."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from osediff_core import OSEDiffError
from train.config import RunConfig
from train.engine.setup import check_restarts, started_again

SPEC = importlib.util.spec_from_file_location(
    "kill_and_resume", Path(__file__).with_name("kill_and_resume.py")
)
assert SPEC is not None
assert SPEC.loader is not None
runs = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(runs)

STEPS = 6
TORCHRUN = {
    "TORCHELASTIC_MAX_RESTARTS": "3",
    "TORCHELASTIC_RESTART_COUNT": "1",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "GROUP_WORLD_SIZE": "1",
    "RANK": "0",
}


def launch(folder, out, restarts):
    """Start two processes that train into `out`, and begin again as often as `restarts`."""
    config = folder / f"{out.name}.toml"
    config.write_text(runs.CONFIG.format(root=runs.ROOT, folder=folder, out=out, steps=STEPS, workers=1))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [f"--max-restarts={restarts}", "-m", "train", str(config), "--run.resume", "true"]
    with (folder / f"{out.name}.log").open("w") as said:
        return subprocess.Popen(command, cwd=runs.ROOT, env=runs.environment(), stdout=said, stderr=said)


def process(launcher, rank):
    """Return the id of a launcher's process of that rank."""
    found = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True, check=True)
    for number in found.stdout.split():
        if f"\0RANK={rank}\0" in Path(f"/proc/{number}/environ").read_text():
            return int(number)
    raise AssertionError(f"no process of rank {rank}")


def kill_after_state(launcher, state, rank):
    """Kill a process as soon as that state is there."""
    while not state.exists():
        assert launcher.poll() is None, "it ended by itself"
        time.sleep(0.02)
    os.kill(process(launcher, rank), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_a_group_whose_processes_are_killed_ends_as_one_whose_are_not(tmp_path):
    """One of each rank is killed, and what was written last is cut as by a power cut."""
    runs.write_pictures(tmp_path / "pictures")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert launch(tmp_path, whole, restarts=0).wait() == 0
    launcher = launch(tmp_path, killed, restarts=2)
    kill_after_state(launcher, killed / "state_0000002.pt", rank=1)
    cut = killed / f"state_{STEPS - 1:07d}.pt"  # a step that is never saved, and newer than all but the last
    cut.write_bytes((killed / "state_0000002.pt").read_bytes()[:5000])
    kill_after_state(launcher, killed / "state_0000004.pt", rank=0)
    assert launcher.wait() == 0
    said = (tmp_path / "killed.log").read_text()
    assert said.count("Going on after step") == 4, "twice, in two processes"
    assert f"{cut.name} is damaged" in said
    ends = [torch.load(out / f"state_{STEPS:07d}.pt", weights_only=True) for out in (whole, killed)]
    assert runs.differences(*ends) == []
    first = torch.load(whole / "state_0000004.pt", weights_only=True)
    assert runs.differences(first, ends[0]) != [], "control: two steps are a difference"


def test_restarts_that_could_not_go_on_are_refused_before_anything_is_loaded():
    check_restarts({}, RunConfig())
    check_restarts({**TORCHRUN, "TORCHELASTIC_MAX_RESTARTS": "0"}, RunConfig())
    check_restarts(TORCHRUN, RunConfig(resume=True))
    with pytest.raises(OSEDiffError, match=r"max_restarts.*--run.resume true"):
        check_restarts(TORCHRUN, RunConfig(overwrite=True))


@pytest.mark.parametrize(
    ("environment", "warned"),
    [
        ({}, False),
        ({"GROUP_WORLD_SIZE": "2"}, True),
        ({"GROUP_WORLD_SIZE": "2", "RANK": "1"}, False),
        ({"GROUP_WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "False"}, False),
    ],
)
def test_machines_that_would_not_meet_again_are_told(caplog, environment, warned):
    check_restarts(TORCHRUN | environment, RunConfig(resume=True))
    assert ("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in caplog.text) == warned


@pytest.mark.parametrize(
    ("environment", "again"),
    [
        ({}, True),
        ({"TORCHELASTIC_RESTART_COUNT": "0"}, False),
        ({"TORCHELASTIC_USE_AGENT_STORE": "False"}, False),
        ({"GROUP_WORLD_SIZE": "2"}, False),
    ],
)
def test_a_start_with_the_addresses_of_before_is_recognised(environment, again):
    assert started_again(TORCHRUN | environment) == again

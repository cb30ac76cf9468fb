"""A folder divided among processes: who restores what, and one report when all of them are through.

torchrun and `accelerate launch` say in RANK, WORLD_SIZE and LOCAL_RANK which process this is; whoever starts
processes by hand may say the same. They meet in the folder of the results alone, so that each can end, be
killed and be started again for itself.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import OSEDiffError
from ..pictures.jobs import Jobs
from ..whole_files import name_beside, reason, write_whole
from .console import DONE, FAILED, note, say

PARTS = ".osediff-parts-of-"  # hidden, so that no later run takes it for pictures


@dataclass(frozen=True)
class Process:
    """This is process `rank` of `count`; `local` counts the processes of this machine."""

    rank: int = 0
    count: int = 1
    local: int = 0


@dataclass(frozen=True)
class Outcome:
    """How many pictures were restored, how many were there already, and what went wrong with others."""

    restored: int
    already: int
    failures: list[str]


def this_process(environment: Mapping[str, str]) -> Process:
    """Read which process this is; without the variables it is the only one."""
    try:
        numbers = (
            int(environment.get(k, d)) for k, d in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
        process = Process(*numbers)
    except ValueError as error:
        raise OSEDiffError(
            f"RANK, WORLD_SIZE and LOCAL_RANK are whole numbers where they are set: {error}"
        ) from error
    if not 0 <= process.rank < process.count:
        raise OSEDiffError(
            f"RANK counts from 0 to WORLD_SIZE - 1, got {process.rank} of {process.count}: set both"
        )
    return process


def device_of(process: Process, device: str) -> str:
    """Give each process of a machine a card of its own, where it may choose and there are any."""
    import torch

    cards = torch.cuda.device_count() if device == "auto" and process.count > 1 else 0
    return f"cuda:{process.local % cards}" if cards else device


def forget(folder: Path, process: Process) -> None:
    """Take back what this process reported in an earlier attempt."""
    if folder.is_dir():
        _part(folder, process.count, process.rank).unlink(missing_ok=True)


def join(folder: Path, process: Process, outcome: Outcome) -> Outcome | None:
    """Put this process's outcome beside the others'; the last one to come gets them all, added up.

    Raises OSEDiffError where the folder cannot be written to.
    """
    parts = _part(folder, process.count, 0).parent
    try:
        parts.mkdir(exist_ok=True)
        write_whole(_part(folder, process.count, process.rank), json.dumps(asdict(outcome)).encode())
        if not all(_part(folder, process.count, rank).exists() for rank in range(process.count)):
            return None
        claimed = name_beside(parts)
        os.replace(parts, claimed)  # one of those who see that all are there succeeds
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OSEDiffError(f"the report cannot be written to {folder}: {reason(error)}") from error
    outcomes = [
        Outcome(**json.loads((claimed / f"{rank}.json").read_bytes())) for rank in range(process.count)
    ]
    shutil.rmtree(claimed)
    return Outcome(
        sum(o.restored for o in outcomes),
        sum(o.already for o in outcomes),
        [failure for o in outcomes for failure in o.failures],
    )


def report(outcome: Outcome, jobs: Jobs, process: Process, folder: Path | None) -> int:
    """Say what was done and what failed, and return the status.

    folder: of results that processes divide, for all of which the last one speaks; None for one result.
    """
    if process.count > 1 and folder is not None:
        try:
            together = join(folder, process, outcome)
        except OSEDiffError as error:
            say(f"error: {error}")
            return FAILED
        if together is None:
            note(f"process {process.rank} is through; the last of {process.count} reports")
            return DONE  # a failure would make a launcher end the others
        outcome = together
    for failure in outcome.failures:
        say(f"error: {failure}")
    if outcome.restored or process.count > 1 or len(jobs.todo) > 1:
        note(_summary(outcome, jobs))
    return FAILED if outcome.failures else DONE


def _summary(outcome: Outcome, jobs: Jobs) -> str:
    if (outcome.restored, outcome.already, outcome.failures) == (1, 0, []) and jobs.todo:
        return f"wrote {jobs.todo[0].target}"
    already = f", {outcome.already} there already" if outcome.already else ""
    return f"{outcome.restored} restored{already}, {len(outcome.failures)} failed"


def _part(folder: Path, count: int, rank: int) -> Path:
    return folder / f"{PARTS}{count}" / f"{rank}.json"

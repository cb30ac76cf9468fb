"""`osediff IN OUT --report F.html`: a page with every picture before and after."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import OSEDiffError
from ..pictures.jobs import Job
from ..report.cases import Case, View
from ..report.page import Report, check_page, write_report
from .processes import Process

NAMES_OF_FILES = ("base", "weights", "tagger", "vlm", "vocabulary")
NOT_OF_PICTURES = (
    "sources",
    "target",
    "to",
    "name",
    "report",
    "overwrite",
    "recursive",
    "quiet",
    "plan",
    "spill",
)
"""Options that say nothing of how pictures were made."""


def check_report(args: argparse.Namespace, process: Process) -> None:
    """Raise OSEDiffError where a report is asked for that cannot be, before anything is restored."""
    if args.report is None:
        return
    if args.plan:
        raise OSEDiffError("--plan restores nothing that --report could show: leave one of them out")
    if process.count > 1:
        raise OSEDiffError(
            "--report is written by one process, and these divide a folder: when they are through, say the "
            "same in a single process, which restores nothing again"
        )
    check_page(args.report)


def write_before_after(args: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Write the page of what was restored. Raises OSEDiffError where it cannot be written."""
    write_report(
        args.report,
        Report(
            "Before and after",
            [_case(job, args.sources) for job in sorted(jobs, key=lambda job: job.source)],
            "Pictures in the order of how much they were changed, the most first: by the difference of the "
            "restored picture from the bicubic enlargement of the input.",
            settings=settings_of(args),
            most_changed_first=True,
        ),
    )


def settings_of(args: argparse.Namespace) -> dict[str, str]:
    """Return how pictures were made, option by option; of files and folders their names alone."""
    told = {"model": "the bundled demo"} if args.base is None and args.weights is None else {}
    for name, value in sorted(vars(args).items()):
        if name in NOT_OF_PICTURES or value is None or value in ("", False):
            continue
        told[name] = Path(value).name if name in NAMES_OF_FILES else str(value)
    return told


def _case(job: Job, sources: Sequence[str]) -> Case:
    folder = Path(sources[0])
    name = str(job.source) if len(sources) > 1 else job.source.name
    if len(sources) == 1 and folder.is_dir():
        name = str(job.source.relative_to(folder))
    views = [
        View("input", job.source, "nearest"),
        View("bicubic", job.source, "bicubic"),
        View("restored", job.target),
    ]
    return Case(name, views, main=2, compared_with=1)

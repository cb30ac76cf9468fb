"""`osediff IN OUT`: restore a picture, or every picture of a folder.

Nothing heavy is imported before it is needed, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OSEDiffError, printable
from ..pictures.jobs import Job, Jobs, find_jobs
from .console import DONE, FAILED, INTERRUPTED, USAGE, messages, note, say, show
from .options import restore_parser
from .processes import Outcome, Process, device_of, forget, report, this_process

if TYPE_CHECKING:
    from ..model import OSEDiff
    from ..pipeline.run import Progress
    from ..prompts.text import PromptSource


def main(argv: Sequence[str], commands: Mapping[str, str]) -> int:
    """Restore what `argv` names, and return the exit status. commands: what else help should list.

    A mistake is answered in one sentence on stderr, without a traceback. Raises SystemExit for what argparse
    answers itself: help, version, unknown options.
    """
    args = restore_parser(commands).parse_args(argv)
    try:
        with messages(args.quiet):
            return _restore(args, os.environ)
    except KeyboardInterrupt:
        say("interrupted before any picture was begun")
        return INTERRUPTED


def _restore(args: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Plan, load the model, restore one picture after the other, and say how it went."""
    try:
        process = this_process(environment)
        jobs = _jobs(args, process)
        if args.report is not None:
            from .before_after import check_report

            check_report(args, process)
    except OSEDiffError as error:
        say(f"error: {error}")
        return USAGE
    if jobs.left_out and process.rank == 0:
        note(f"left out: {jobs.left_out}")
    if jobs.other_size:
        note(
            f"{jobs.other_size} of the results that are there have another size than {args.size} "
            "gives: name another folder, or say --overwrite to make them again"
        )
    if not jobs.todo and process.count > 1:
        return report(Outcome(0, jobs.already, []), jobs, process, args.source, args.target)
    if not jobs.todo:
        note(f"nothing to do: all {jobs.already} are there already (--overwrite does them again)")
        return _write_report(args, jobs.there)
    try:
        model = _load(args, process)
        if args.plan:
            return _show_plans(model, jobs, args)
        source = _prompt_source(args)
    except OSEDiffError as error:
        say(f"error: {error}")
        return FAILED
    return _go_through(model, source, jobs, process, args)


def _jobs(args: argparse.Namespace, process: Process) -> Jobs:
    suffix = f".{args.format}" if args.format else None
    jobs = find_jobs(
        args.source,
        args.target,
        suffix,
        overwrite=args.overwrite,
        recursive=args.recursive,
        size=args.size,
        share=(process.rank, process.count),
        look_only=args.plan,
    )
    forget(Path(args.target), process)
    return jobs


def _prompt_source(args: argparse.Namespace) -> PromptSource:
    """Load what makes the prompts, if it is more than --prompt."""
    if args.tagger is not None:
        from ..prompts.tagger import Tagger

        return Tagger.from_pretrained(args.tagger, dtype=args.dtype, device=args.device)
    if args.vlm is not None:
        from ..prompts.captioner import Captioner

        return Captioner.from_pretrained(args.vlm, dtype=args.dtype, device=args.device)
    from ..prompts.text import plain_text

    return plain_text


def _is_merged(base: str) -> bool:
    """Whether a base has a checkpoint folded in for good."""
    from ..base.load import locate
    from ..base.marker import read_marker

    return read_marker(locate(base)) is not None


def _load(args: argparse.Namespace, process: Process) -> OSEDiff:
    """Load the model, and say so where it is not the one that a user may expect."""
    from ..model import OSEDiff
    from ..pipeline.plan import tile_and_overlap
    from ..pipeline.unet_tiles import grid

    grid(1, 1, *tile_and_overlap(args.tile, args.overlap))  # refuses what cannot be, before loading
    if args.base is None and args.weights is None:
        note("no --base and --weights: using the bundled demo, a small model (README.md: the real weights)")
    elif args.base is not None and args.weights is None and not _is_merged(args.base):
        note("no --weights: this is the plain base, which was never trained to restore")
    return OSEDiff.from_pretrained(
        args.base,
        args.weights,
        strength=args.strength,
        dtype=args.dtype,
        device=device_of(process, args.device),
        vocabulary=args.vocabulary,
        offload=args.offload,
        compile=args.compile,
    )


def _show_plans(model: OSEDiff, jobs: Jobs, args: argparse.Namespace) -> int:
    """Say of every picture how it would be restored and whether it fits; restore none."""
    from ..pictures.images import read_image
    from ..pipeline.plan import make_plan
    from ..pipeline.runtime import Runtime

    cut = {name: getattr(args, name) for name in ("tile", "overlap", "vae", "spill")}
    every = True
    for job in jobs.todo:
        try:
            sides = read_image(job.source).rgb.shape[-2:]
            scale, middle = args.size.of(*sides)
            plan = make_plan(model, *sides, runtime=Runtime(), scale=scale, middle=middle, **cut)
        except OSEDiffError as error:
            say(f"error: {error}")
            every = False
        else:
            show(f"{printable(job.source)}: {plan}")
            every &= plan.fits
    return DONE if every else FAILED


def _go_through(
    model: OSEDiff, source: PromptSource, jobs: Jobs, process: Process, args: argparse.Namespace
) -> int:
    """Restore all of the pictures; say what was done and, at the end, what failed."""
    from .restore_files import Settings, restore_files

    settings = Settings(
        args.size,
        args.prompt,
        args.color,
        args.tile,
        args.overlap,
        args.quality,
        source,
        vae=args.vae,
        spill=args.spill,
        detail=args.detail,
        strip=args.strip,
    )
    results: list[tuple[Job, str | None]] = []
    try:
        with _bars(len(jobs.todo), args.quiet) as (begin, end):
            for result in restore_files(model, jobs.todo, settings, begin):
                results.append(result)
                end(f"{len(results)}/{len(jobs.todo)} {result[0].source}")
    except KeyboardInterrupt:
        say(f"interrupted; {sum(reason is None for _, reason in results)} of {len(jobs.todo)} done")
        return INTERRUPTED
    failures = [
        reason if str(job.source) in reason else f"{job.source}: {reason}"
        for job, reason in results
        if reason is not None
    ]
    outcome = Outcome(len(jobs.todo) - len(failures), jobs.already, failures)
    status = report(outcome, jobs, process, args.source, args.target)
    done = [job for job, reason in results if reason is None]
    return max(status, _write_report(args, [*jobs.there, *done]))


def _write_report(args: argparse.Namespace, done: Sequence[Job]) -> int:
    """Write the page of the pictures that are done, where one is asked for; return the exit status."""
    if args.report is None or not done:
        return DONE
    from .before_after import write_before_after

    try:
        write_before_after(args, done)
    except OSEDiffError as error:
        say(f"error: {error}")
        return FAILED
    note(f"wrote {args.report}")
    return DONE


@contextmanager
def _bars(count: int, quiet: bool) -> Iterator[tuple[Callable[[Job], Progress], Callable[[str], None]]]:
    """Show one bar over pictures and one over the parts of each; on no terminal, a line for each picture."""
    from tqdm import tqdm

    off = True if quiet else None  # None: off where stderr is no terminal
    pictures = tqdm(total=count, unit="picture", leave=False, disable=True if count == 1 else off)
    parts = tqdm(unit="part", leave=False, disable=off)

    def begin(job: Job) -> Progress:
        parts.reset()
        parts.set_description(printable(job.source.name))
        return advance

    def advance(done: int, total: int) -> None:
        parts.total = total
        parts.update(done - parts.n)

    def end(line: str) -> None:
        pictures.update()
        if parts.disable and count > 1:
            note(line)

    with pictures, parts:
        yield begin, end

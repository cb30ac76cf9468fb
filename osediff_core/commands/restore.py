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
from ..pictures.files import check_size
from ..pictures.jobs import Job, Jobs, Rules, find_all, find_jobs
from ..pictures.naming import SAME, Naming
from ..pictures.results import sides
from ..sizes import COVER, FIT
from .console import DONE, FAILED, INTERRUPTED, USAGE, answer, closest, messages, note, say, show
from .made_with import comparison, notes_of, size_in_names, written
from .options import parse_restore
from .pipes import PIPE, piped
from .processes import Outcome, Process, device_of, forget, report, this_process

if TYPE_CHECKING:
    from ..model import OSEDiff
    from ..pipeline.run import Progress
    from ..prompts.text import PromptSource

MOST_DIFFERENCES = 5
"""Ways in which results that are there were made otherwise that are told one by one."""


def main(argv: Sequence[str], commands: Mapping[str, str]) -> int:
    """Restore what `argv` names, and return the exit status. commands: what else help should list.

    A mistake is answered in one sentence on stderr, without a traceback. Raises SystemExit for what argparse
    answers itself: help, version, unknown options.
    """
    meant = (
        closest(argv[0], commands) if argv and argv[0].isidentifier() and not Path(argv[0]).exists() else None
    )
    if meant is not None:
        with messages(quiet=False):
            say(f"error: there is no file, folder or command {argv[0]}: did you mean osediff {meant}?")
        return USAGE
    args = parse_restore(argv, commands)
    # Between a program that makes pictures and one that takes them, only what goes wrong is of interest.
    return answer(lambda: _begun(args), args.quiet or args.target == PIPE)


def _begun(args: argparse.Namespace) -> int:
    """Restore, with files in the place of pipes."""
    suffix = f".{args.format}" if args.format not in (None, SAME) else ".png"
    try:
        named = args.sources
        with piped(named, args.target, suffix) as (args.sources, args.target):
            args.pipes = {Path(s) for s, name in zip(args.sources, named, strict=True) if name == PIPE}
            return _restore(args, os.environ)
    except KeyboardInterrupt:
        say("interrupted before any picture was begun")
        return INTERRUPTED


def _restore(args: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Plan, load the model, restore one picture after the other, and say how it went."""
    settings = notes_of(args)
    folder = Path(args.target) if args.to is not None or Path(args.sources[0]).is_dir() else None
    try:
        process = this_process(environment)
        jobs = _jobs(args, process, settings)
        _check_before_loading(args, jobs)
        if args.report is not None:
            from .before_after import check_report

            check_report(args, process)
    except OSEDiffError as error:
        say(f"error: {error}")
        return USAGE
    if jobs.left_out and process.rank == 0:
        note(f"left out: {jobs.left_out}")
    for difference, count in jobs.otherwise.most_common(MOST_DIFFERENCES):
        were = "was" if count == 1 else "were"
        note(
            f"{count} of the results that are there {were} made with {difference}: name another folder, or "
            "say --overwrite changed to make them again"
        )
    if not jobs.todo and process.count > 1:
        return report(Outcome(0, jobs.already, []), jobs, process, folder)
    if not jobs.todo:
        note(f"nothing to do: all {jobs.already} are there already (--overwrite does them again)")
        return _write_report(args, jobs.there)
    try:
        model = _load(args, process)
        if args.plan:
            return _show_plans(model, jobs, args)
        source = _prompt_source(args)
        made = None if args.strip else written(settings())
    except OSEDiffError as error:
        say(f"error: {error}")
        return FAILED
    return _go_through(model, source, jobs, process, folder, made, args)


def _jobs(args: argparse.Namespace, process: Process, settings: Callable[[], Mapping[str, object]]) -> Jobs:
    named = {"scale": size_in_names(args.size), "detail": f"{args.detail:g}", "color": args.color}
    suffix = args.format if args.format in (None, SAME) else f".{args.format}"
    rules = Rules(
        Naming(suffix, args.name, named),
        overwrite=args.overwrite,
        recursive=args.recursive,
        compare=comparison(args.size, settings),
        share=(process.rank, process.count),
        look_only=args.plan,
    )
    if args.to is None:
        jobs = find_jobs(args.sources[0], args.target, rules)
    else:
        jobs = find_all(args.sources, args.target, rules)
    forget(Path(args.target), process)
    return jobs


def _check_before_loading(args: argparse.Namespace, jobs: Jobs) -> None:
    """Raise OSEDiffError for what would be found out once all is loaded."""
    for option in ("weights", "tagger", "vocabulary", "decoder"):
        named = getattr(args, option)
        if named is not None and not Path(named).exists():
            raise OSEDiffError(f"--{option} names {named}, which is not there: check the path, or fetch it")
    if args.spill is not None and not args.spill.is_dir():
        raise OSEDiffError(f"there is no folder {args.spill} to spill to: make it, or name another one")
    known = sides(jobs.todo[0].source) if len(jobs.todo) == 1 and args.size.by not in (FIT, COVER) else None
    if known is not None:  # turned or not, it has these sides
        check_size(jobs.todo[0].target, args.size.of(*known)[1])


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
        decoder=args.decoder,
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
            show(f"{'stdin' if job.source in args.pipes else printable(job.source)}: {plan}")
            every &= plan.fits
    return DONE if every else FAILED


def _go_through(
    model: OSEDiff,
    source: PromptSource,
    jobs: Jobs,
    process: Process,
    folder: Path | None,
    made: str | None,
    args: argparse.Namespace,
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
        made=made,
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
    status = report(outcome, jobs, process, folder)
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

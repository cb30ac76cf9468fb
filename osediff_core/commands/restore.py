"""`osediff IN OUT`: restore a picture, or every picture of a folder.

Nothing heavy is imported before it is needed, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import DONE, FAILED, INTERRUPTED, USAGE, messages, note, say, version
from ..errors import OSEDiffError
from ..jobs import Job, Plan, make_plan
from .shares import Outcome, Share, device_of, forget, report, share_of

if TYPE_CHECKING:
    from ..model import OSEDiff
    from ..prompts import PromptSource
    from ..restore import Progress

FORMATS = ("png", "jpg", "webp", "tif", "bmp")
COLORS = ("adain", "wavelet", "none")
DTYPES = ("auto", "float32", "float16", "bfloat16")
OFFLOADS = ("none", "parts")
EPILOG = """\
A result that exists is replaced only with --overwrite: without it, a single picture is refused, and a folder
run goes on where it stopped. EXIF is kept; the result is tagged sRGB.

exit status: 0 all is done; 1 something failed (a folder is gone through to its end); 2 the command cannot be
meant, and nothing was begun; 130 interrupted."""


def main(argv: Sequence[str], commands: Mapping[str, str]) -> int:
    """Restore what `argv` names, and return the exit status. commands: what else help should list.

    A mistake is answered in one sentence on stderr, without a traceback. Raises SystemExit for what argparse
    answers itself: help, version, unknown options.
    """
    args = _parser(commands).parse_args(argv)
    try:
        with messages(args.quiet):
            return _restore(args, os.environ)
    except KeyboardInterrupt:
        say("interrupted before any picture was begun")
        return INTERRUPTED


def _parser(commands: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="osediff",
        usage="osediff IN OUT [options]" + "\n       osediff COMMAND ..." * bool(commands),
        description="Restore and enlarge photographs with OSEDiff, in one step of diffusion.",
        epilog="\n\n".join(filter(None, [_listed(commands), EPILOG])),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # so that later options cannot change what a script means
    )
    add = parser.add_argument
    add("source", metavar="IN", help="a picture (PNG, JPEG, WebP, TIFF, BMP), or a folder of them")
    add("target", metavar="OUT", help="the file to write, or a folder; folders are made if need be")
    add("--overwrite", action="store_true", help="replace results that exist")
    add("--recursive", action="store_true", help="look into the folders inside IN as well")
    add("--quiet", action="store_true", help="say nothing but errors")
    add("--version", action="version", version=f"osediff {version()}")
    _add_picture_options(parser)
    _add_model_options(parser)
    return parser


def _listed(commands: Mapping[str, str]) -> str:
    lines = [f"  {name:<12}  {what}" for name, what in commands.items()]
    return "\n".join(["other commands (osediff COMMAND --help):", *lines]) if lines else ""


def _add_picture_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("picture").add_argument
    add("--scale", type=_scale, default=4.0, metavar="N", help="how much larger, at least 1 (default 4)")
    add("--prompt", default="", metavar="TEXT", help="what the picture shows (default nothing)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--tagger", metavar="FILE", help="tag each picture: a file of osediff convert-dape")
    source.add_argument("--vlm", metavar="MODEL", help="describe each by this vision-language model's folder")
    add("--color", choices=COLORS, default="adain", help="how colours follow the input (default adain)")
    add("--tile", type=_tile, default="auto", metavar="N", help="auto, off, or a side in latent pixels")
    add("--overlap", type=_whole(0), default=32, metavar="N", help="of tiles, in latent pixels (default 32)")
    add("--format", choices=FORMATS, help="of results in a folder (default png)")
    add("--quality", type=_whole(1, 100), metavar="N", help="of JPEG (default 95), WebP (default lossless)")


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "model", "without --base and --weights it is the bundled demo, a small one"
    )
    add = group.add_argument
    add("--base", metavar="FOLDER", help="Stable Diffusion 2.1-base in the diffusers layout")
    add("--weights", metavar="FILE", help="the OSEDiff checkpoint for that base (.safetensors or .pkl)")
    add(
        "--strength", type=_number, default=1.0, metavar="N", help="of the checkpoint (default 1, as trained)"
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, xpu (default auto)")
    add("--dtype", choices=DTYPES, default="auto", help="default auto: float16 on cuda, else float32")
    _add_memory_options(parser)


def _add_memory_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("memory", "none of these changes a picture by more than rounding")
    add = group.add_argument
    add(
        "--offload",
        choices=OFFLOADS,
        default="none",
        help="parts: each part of the model is on the device only while it is needed (default none)",
    )
    add(
        "--vae",
        type=_vae,
        default="auto",
        metavar="N",
        help="auto: whole where it fits, else in exact pieces; whole; or the side of pieces in pixels",
    )
    add("--spill", type=Path, metavar="FOLDER", help="for files that stand in for memory, for huge pictures")


def _restore(args: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Plan, load the model, restore one picture after the other, and say how it went."""
    try:
        share = share_of(environment)
        plan = _plan(args, share)
    except OSEDiffError as error:
        say(f"error: {error}")
        return USAGE
    if not plan.jobs and share.count > 1:
        return report(Outcome(0, plan.already, []), plan, share, args.source, args.target)
    if not plan.jobs:
        note(f"nothing to do: all {plan.already} are there already (--overwrite does them again)")
        return DONE
    try:
        source = _prompt_source(args)
        model = _load(args, share)
    except (OSEDiffError, MemoryError) as error:
        say(f"error: {str(error) or 'there is not enough memory for this model'}")
        return FAILED
    return _go_through(model, source, plan, share, args)


def _plan(args: argparse.Namespace, share: Share) -> Plan:
    suffix = f".{args.format}" if args.format else None
    plan = make_plan(
        args.source,
        args.target,
        suffix,
        overwrite=args.overwrite,
        recursive=args.recursive,
        share=(share.rank, share.count),
    )
    forget(Path(args.target), share)
    return plan


def _prompt_source(args: argparse.Namespace) -> PromptSource:
    """Load what makes the prompts, if it is more than --prompt."""
    if args.tagger is not None:
        from ..tagger import Tagger

        return Tagger.from_pretrained(args.tagger, dtype=args.dtype, device=args.device)
    if args.vlm is not None:
        from ..captioner import Captioner

        return Captioner.from_pretrained(args.vlm, dtype=args.dtype, device=args.device)
    from ..prompts import plain_text

    return plain_text


def _load(args: argparse.Namespace, share: Share) -> OSEDiff:
    """Load the model, and say so where it is not the one that a user may expect."""
    from ..base import locate
    from ..marker import read_marker
    from ..model import OSEDiff
    from ..restore import tile_side
    from ..tiling import grid

    grid(1, 1, tile_side(args.tile), args.overlap)  # refuses impossible tiles before the model is loaded
    if args.base is None and args.weights is None:
        note("no --base and --weights: using the bundled demo, a small model (README.md: the real weights)")
    elif args.weights is None and read_marker(locate(args.base)) is None:
        note("no --weights: this is the plain base, which was never trained to restore")
    return OSEDiff.from_pretrained(
        args.base,
        args.weights,
        strength=args.strength,
        dtype=args.dtype,
        device=device_of(share, args.device),
        offload=args.offload,
    )


def _go_through(
    model: OSEDiff, source: PromptSource, plan: Plan, share: Share, args: argparse.Namespace
) -> int:
    """Restore all of a plan's pictures; say what was done and, at the end, what failed."""
    from ..batch import Settings, restore_files

    settings = Settings(
        args.scale,
        args.prompt,
        args.color,
        args.tile,
        args.overlap,
        args.quality,
        source,
        vae=args.vae,
        spill=args.spill,
    )
    results: list[tuple[Job, str | None]] = []
    try:
        with _bars(len(plan.jobs), args.quiet) as (begin, end):
            for result in restore_files(model, plan.jobs, settings, begin):
                results.append(result)
                end(f"{len(results)}/{len(plan.jobs)} {result[0].source}")
    except KeyboardInterrupt:
        say(f"interrupted; {sum(reason is None for _, reason in results)} of {len(plan.jobs)} done")
        return INTERRUPTED
    failures = [
        reason if str(job.source) in reason else f"{job.source}: {reason}"
        for job, reason in results
        if reason is not None
    ]
    outcome = Outcome(len(plan.jobs) - len(failures), plan.already, failures)
    return report(outcome, plan, share, args.source, args.target)


@contextmanager
def _bars(count: int, quiet: bool) -> Iterator[tuple[Callable[[Job], Progress], Callable[[str], None]]]:
    """Show one bar over pictures and one over the parts of each; on no terminal, a line for each picture."""
    from tqdm import tqdm

    off = True if quiet else None  # None: off where stderr is no terminal
    pictures = tqdm(total=count, unit="picture", leave=False, disable=True if count == 1 else off)
    parts = tqdm(unit="part", leave=False, disable=off)

    def begin(job: Job) -> Progress:
        parts.reset()
        parts.set_description(job.source.name)
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


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def _scale(text: str) -> float:
    value = _number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"a picture can be kept (1) or made larger, got {text}")
    return value


def _whole(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """A type for argparse: a whole number in a range."""

    def number(text: str) -> int:
        value = int(text)
        if value < lowest or (highest is not None and value > highest):
            wanted = f"at least {lowest}" if highest is None else f"from {lowest} to {highest}"
            raise argparse.ArgumentTypeError(f"it is a whole number {wanted}, got {text}")
        return value

    return number


def _vae(text: str) -> str | int:
    try:
        return text if text in ("auto", "whole") else _whole(32)(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it is auto, whole, or a whole number, got {text}") from None


def _tile(text: str) -> str | int:
    try:
        return text if text in ("auto", "off") else _whole(1)(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it is auto, off, or a whole number, got {text}") from None

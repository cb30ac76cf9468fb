"""`osediff fetch [WHAT ...]`: get the published weights, after showing their size and licence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import OSEDiffError
from ..tools import published
from ..tools.fetch import Place, PlannedFile, bring, by_hand, plan
from .console import DONE, FAILED, USAGE, answer, command_parser, note, say, show

EPILOG = """\
A download that breaks off goes on where it stopped when it is started again. HF_ENDPOINT names another hub,
HF_HOME another cache, HF_TOKEN a token; HF_HUB_OFFLINE=1 forbids the network.

exit status: 0 all of it is there and checked; 1 something is missing or wrong; 2 the command cannot be meant;
130 interrupted."""


def main(argv: Sequence[str]) -> int:
    """List what is known, or fetch what `argv` names; return the exit status."""
    parser = command_parser("fetch", "Get published weights, or, without WHAT, list what is known.", EPILOG)
    add = parser.add_argument
    add("what", metavar="WHAT", nargs="*", help=", ".join(published.SOURCES))
    add("--yes", action="store_true", help="do not ask")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--comfyui", type=Path, metavar="FOLDER", help="put it into this ComfyUI's models")
    group.add_argument("--to", type=Path, metavar="FOLDER", help="put it here (default the hub's cache)")
    args = parser.parse_args(argv)
    return answer(lambda: _fetch(args), args.quiet)


def _fetch(args: argparse.Namespace) -> int:
    unknown = [name for name in args.what if name not in published.SOURCES]
    if unknown:
        say(f"error: {unknown[0]} is not known; known are {', '.join(published.SOURCES)}")
        return USAGE
    if args.comfyui and not (args.comfyui / "models").is_dir():
        say(f"error: {args.comfyui} is no ComfyUI: it has no folder models; give the folder that has main.py")
        return USAGE
    place = Place(args.comfyui, args.to)
    if not args.what:
        show("\n\n".join(_listed(name, source, place) for name, source in published.SOURCES.items()))
        return DONE
    return _get([published.SOURCES[name] for name in dict.fromkeys(args.what)], place, yes=args.yes)


def _listed(name: str, source: published.PublishedFiles, place: Place) -> str:
    """Return what is known of a source, without asking the network."""
    pinned = sum(bool(file.sha256 or file.git_blob) for file in source.files)
    lines = [
        f"{name}: {source.what}",
        f"  {source.about}; {pinned} of {len(source.files)} hashes pinned",
        f"  licence {source.licence.name}: {source.licence.address}",
        *([f"    {source.licence.mind}"] if source.licence.mind else []),
        f"  from {', or '.join(mirror.repo for mirror in source.mirrors)}, into {place.words(source)}"
        if source.mirrors
        else f"  {by_hand(source, place)}",
        *([f"  {source.note}"] if source.note else []),
    ]
    return "\n".join(lines)


def _get(wanted: Sequence[published.PublishedFiles], place: Place, *, yes: bool) -> int:
    """Plan everything, ask once, and download; what cannot be had does not keep back the rest."""
    plans, failed = [], False
    for source in wanted:
        try:
            plans.append(plan(source, place))
        except OSEDiffError as error:
            say(f"error: {error}")
            failed = True
    items = [item for items in plans for item in items]
    missing = [item for item in items if item.remote is not None]
    if missing and not _agreed(missing, place, yes=yes):
        return FAILED
    for path, checked in bring(items):
        show(str(path))
        note(f"{path.name}: {checked}")
    return FAILED if failed else DONE


def _agreed(missing: Sequence[PlannedFile], place: Place, *, yes: bool) -> bool:
    """Show size, licence and place of what would be downloaded, --quiet or not, and ask."""
    for source in dict.fromkeys(item.source for item in missing):
        sizes = [item.remote.size for item in missing if item.source is source and item.remote]
        repo = next(item.remote.mirror.repo for item in missing if item.source is source and item.remote)
        say(f"{source.what}: {_size(sum(sizes))} from {repo} into {place.words(source)}")
        say(f"licence: {source.licence.name}, {source.licence.address}")
        if source.licence.mind:
            say(f"mind that {source.licence.mind}")
    if yes:
        return True
    if not sys.stdin.isatty():
        say("error: nobody is there to be asked: say --yes to download")
        return False
    sys.stderr.write("osediff: download? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _size(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"

"""How a run makes its pictures: what each result says of itself, and a later run compares with its own."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from .. import __version__
from ..errors import OSEDiffError, shortened
from ..pictures.jobs import Job
from ..pictures.results import made, sides
from ..sizes import SCALE, Size
from ..text_files import parse_json

PROGRAM = "program"  # what a note calls the version, which by itself makes no difference
LONGEST_PROMPT = 1000  # letters noted: a JPEG's block, which holds the photograph's EXIF too, is of 64 KiB
LONGEST_VALUE = 60  # letters of a setting in a sentence
LONGEST_DIFFERENCE = 600  # letters of all that is different: a file may note anything


def notes_of(args: argparse.Namespace) -> Callable[[], Mapping[str, object]]:
    """Return what gives the settings of a run, as its results note them; the weights are read once.

    Raises OSEDiffError where they cannot be read.
    """

    @cache
    def settings() -> Mapping[str, object]:
        from ..base.load import DEMO_BASE, DEMO_WEIGHTS, locate
        from ..weights.hashes import fingerprint

        demo = args.base is None and args.weights is None
        files = {
            "base": DEMO_BASE if demo else args.base and locate(args.base),
            "weights": DEMO_WEIGHTS if demo else args.weights,
            "decoder": args.decoder,
            "tagger": args.tagger,
            "vlm": args.vlm,
        }
        try:
            known = {what: fingerprint(Path(path)) for what, path in files.items() if path}
        except OSError as error:
            raise OSEDiffError(f"{error.filename} cannot be read: {error.strerror}") from error
        told = {name: getattr(args, name) for name in ("color", "detail", "strength", "tile", "overlap")}
        optional = {"prompt": shortened(args.prompt, LONGEST_PROMPT), "quality": args.quality}
        return {
            PROGRAM: f"osediff {__version__}",
            **known,
            "size": str(args.size),
            **told,
            **{name: value for name, value in optional.items() if value},
        }

    return settings


def written(settings: Mapping[str, object]) -> str:
    """Return settings as one line of ASCII."""
    return json.dumps(settings, separators=(",", ":"))


def comparison(size: Size, settings: Callable[[], Mapping[str, object]]) -> Callable[[Job], str]:
    """Return what says how a result that is there was made otherwise, from its note or else from its size."""

    def compare(job: Job) -> str:
        note = _read(made(job.target))
        words = [] if note is None else _differences(note, settings())
        return shortened("; ".join(words), LONGEST_DIFFERENCE) or _other_size(job, size)

    return compare


def _read(note: str | None) -> Mapping[str, object] | None:
    try:
        content = None if note is None else parse_json(note)
    except ValueError:
        return None  # another program's
    return content if isinstance(content, dict) and PROGRAM in content else None


def _differences(then: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Say what was different, in the order of the settings of now."""
    words = []
    for name in dict.fromkeys([*now, *then]):
        before, after = then.get(name), now.get(name)
        if name == PROGRAM or before == after:
            continue
        if name == "size":
            words.append(f"{before}, not {after}")
        elif name in ("base", "weights", "decoder", "tagger", "vlm"):
            words.append(f"another {name}" if before and after else f"{'a' if before else 'no'} {name}")
        else:
            words.append(f"{name} {_value(before)}, not {_value(after)}")
    return words


def _value(value: object) -> str:
    return "none" if value is None else shortened(str(value), LONGEST_VALUE)


def _other_size(job: Job, size: Size) -> str:
    """Say that a result has another size than `size` gives; "" where it has not, or nobody can tell."""
    before, after = sides(job.source), sides(job.target)
    if before is None or after is None:
        return ""
    try:
        return "" if after == size.of(*before)[1] else f"another size than {size} gives"
    except OSEDiffError:  # it would have to shrink, which is said of the picture when its turn comes
        return f"another size than {size} gives"


def size_in_names(size: Size) -> str:
    """Return a size as names have it: "4", or "fit-1920x1080"."""
    return f"{size.value:g}" if size.by == SCALE else str(size).replace(" x ", "x").replace(" ", "-")

"""The mark of a base that has a checkpoint folded into it for good: osediff.json in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..errors import OSEDiffError
from ..text_files import parse_json, read_text
from ..whole_files import write_whole

MARKER, FORMAT, FORMAT_VERSION = "osediff.json", "osediff-merged", 1


def write_marker(folder: Path, about: Mapping[str, str]) -> None:
    """Mark a folder; `about` is what `read_marker` will return."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "about": dict(about)}
    write_whole(folder / MARKER, (json.dumps(content, indent=2) + "\n").encode())


def read_marker(folder: Path) -> dict[str, str] | None:
    """Return what was merged into a base, or None for a base without a mark.

    Raises OSEDiffError for a mark that is damaged or newer than this program.
    """
    file = folder / MARKER
    if not file.is_file():
        return None
    try:
        content = parse_json(read_text(file))
        kind, number = content["format"], content["format_version"]
        about = {str(label): str(text) for label, text in content["about"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise OSEDiffError(f"{file} is damaged: merge the model again by `osediff convert`") from error
    if kind != FORMAT or number != FORMAT_VERSION:
        raise OSEDiffError(
            f"{file} is of format {kind} {number}, but this program reads {FORMAT} {FORMAT_VERSION}: "
            "update the program"
        )
    return about

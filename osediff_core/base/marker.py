"""The mark of a base that has a checkpoint folded into it: osediff.json in its folder or metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..errors import OSEDiffError
from ..text_files import parse_json, read_text
from ..weights.tensorfile import TensorFile
from ..whole_files import write_whole

FILES = (".safetensors", ".sft")  # kinds of files that have metadata
MARKER, FORMAT, FORMAT_VERSION = "osediff.json", "osediff-merged", 1


def write_marker(folder: Path, about: Mapping[str, str]) -> None:
    """Mark a folder; `about` is what `read_marker` will return."""
    write_whole(folder / MARKER, (json.dumps(_content(about), indent=2) + "\n").encode())


def marked(about: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata that mark a base in one .safetensors file."""
    return {MARKER: json.dumps(_content(about))}


def _content(about: Mapping[str, str]) -> dict[str, object]:
    return {"format": FORMAT, "format_version": FORMAT_VERSION, "about": dict(about)}


def read_marker(base: Path) -> dict[str, str] | None:
    """Return what was merged into a base, a folder or a file, or None for a base without a mark.

    Raises OSEDiffError for a mark that is damaged or newer than this program.
    """
    file = base / MARKER if base.is_dir() else base
    if not file.is_file() or (file == base and file.suffix.lower() not in FILES):
        return None
    inside = TensorFile(base).metadata.get(MARKER) if file == base else None
    if file == base and inside is None:
        return None
    try:
        content = parse_json(read_text(file) if inside is None else inside)
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

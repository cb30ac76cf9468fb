"""Text files as editors of all systems leave them."""

from __future__ import annotations

import codecs
import json
import stat
from pathlib import Path
from typing import Any

from . import limits
from .errors import OSEDiffError

OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def read_text(path: Path, most: int = limits.TEXT_BYTES) -> str:
    """Read UTF-8 with or without a byte order mark, and any ends of lines as "\\n".

    most: bytes that are read. Raises OSError, and ValueError that says what else it is than such a text.
    """
    status = path.stat()
    if stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode):  # reading may never end, or never begin
        raise ValueError("it is a pipe or a device")
    if status.st_size > most:
        raise ValueError(f"it has {status.st_size:,} bytes, and {most:,} are the most that is read of it")
    with path.open("rb") as file:
        content = file.read(most)
    for mark, name in OTHER_MARKS:
        if content.startswith(mark):
            raise ValueError(f"it is {name} text: save it as UTF-8")
    return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def read_settings(path: Path) -> dict[str, Any]:
    """Return the table that a JSON file holds; OSEDiffError for one that is missing or damaged."""
    try:
        settings = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise OSEDiffError(f"{path} is missing or damaged ({error}): get the file again") from error
    if not isinstance(settings, dict):
        raise OSEDiffError(f"{path} is damaged: it is no table of settings; get the file again")
    return settings


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401
    """Return what JSON says; ValueError for what cannot be read, however deep it is nested."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error

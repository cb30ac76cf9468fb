"""Text and settings from files that people name: an ordinary file of bounded length, UTF-8 with or without a mark."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from . import limits
from .errors import OSEDiffError


def check_file(path: Path) -> int:
    """Return the size in bytes of an ordinary file that is not empty; OSEDiffError for anything else there is.

    A pipe or a device is not opened: it may never end, or never begin.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise OSEDiffError(
                f"there is no file {path}: check the path, or download the file first"
            ) from error
        raise OSEDiffError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or a pipe"
        raise OSEDiffError(f"{path} is {kind}, expected a file: check the path")
    if status.st_size == 0:
        raise OSEDiffError(f"{path} is empty (0 bytes), so its download or copy failed: get the file again")
    return status.st_size


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, without a byte order mark; OSEDiffError if it is none or too long."""
    size = check_file(path)
    if size > limits.TEXT_BYTES:
        raise OSEDiffError(
            f"{path} has {size:,} bytes, but {limits.TEXT_BYTES:,} are the most that is read of a text: get "
            "the file again"
        )
    try:
        with path.open("rb") as file:
            return file.read(limits.TEXT_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise OSEDiffError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise OSEDiffError(
            f"{path} is no text in UTF-8 (byte {error.start:,}): save it as UTF-8, or get it again"
        ) from error


def read_settings(path: Path) -> dict[str, Any]:
    """Return the table of a JSON file; OSEDiffError if there is none, or it is damaged or too long."""
    try:
        settings = parse_json(read_text(path))
    except OSEDiffError:
        raise
    except ValueError as error:
        raise OSEDiffError(f"{path} is damaged ({error}): get the file again") from error
    if not isinstance(settings, dict):
        raise OSEDiffError(f"{path} is damaged: it is no table of settings; get the file again")
    return settings


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401
    """Return what JSON says; ValueError for anything that cannot be read, however deep it is nested."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error

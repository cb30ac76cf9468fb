"""Ordinary files: what is no file, or never ends, is not opened."""

from __future__ import annotations

import stat
from pathlib import Path

from ..errors import OSEDiffError


def check_file(path: Path) -> int:
    """Return the size in bytes of an ordinary file that is not empty; OSEDiffError for anything else.

    A pipe or a device is not opened: reading it may never end, or never begin.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise OSEDiffError(f"there is no file {path}: check the path, or download the file first") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        why = error.strerror if isinstance(error, OSError) else error
        raise OSEDiffError(f"{path} cannot be read: {why}") from error
    if stat.S_ISDIR(status.st_mode):
        raise OSEDiffError(f"{path} is a folder, expected a file: name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise OSEDiffError(f"{path} is a pipe, socket or device; name a file of weights")
    if status.st_size == 0:
        raise OSEDiffError(f"{path} is empty (0 bytes), so its download or copy failed: get the file again")
    return status.st_size

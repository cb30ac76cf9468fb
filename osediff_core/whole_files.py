"""Files that appear whole or not at all: written beside, flushed to the disk, and then renamed."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import OSEDiffError

LEFT_BEHIND = ".osediff-*.part"  # what a process that was killed while it wrote may leave in a folder


def write_whole(path: Path, content: bytes) -> None:
    """Write a file; OSEDiffError where that cannot be done. An old one stays until the new one is whole."""
    write_beside(path, lambda beside: beside.write_bytes(content))


def write_beside(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under another name, then put it in place; a failure leaves nothing behind.

    What `write` raises of the system's and the writing libraries' errors becomes an OSEDiffError.
    """
    beside = name_beside(path)
    try:
        beside.touch(exist_ok=False)
        mode = beside.stat().st_mode
        write(beside)
        beside.chmod(mode)  # safetensors 0.8 makes files that only their owner may read
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        remedy = "; make room and start again" if error.errno == errno.ENOSPC else ""
        raise OSEDiffError(f"{path} could not be written: {error.strerror or error}{remedy}") from error
    except (RuntimeError, *_library_errors()) as error:
        raise OSEDiffError(f"{path} could not be written: {error}") from error
    finally:
        with suppress(OSError):  # what went wrong above is the thing to hear about
            beside.unlink(missing_ok=True)


def name_beside(path: Path) -> Path:
    """Return a name that no other process takes; short, for a name may be as long as the system allows."""
    return path.with_name(f".osediff-{uuid.uuid4().hex[:12]}.part")


def _library_errors() -> tuple[type[Exception], ...]:
    from safetensors import SafetensorError

    return (SafetensorError,)

"""Files that appear whole or not at all: written beside, flushed to the disk, and then renamed.

What is written beside has a name that says which process made it, so that the next run can tell what a killed
one left from what another is at.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import OSEDiffError

NOBODY = "00000000-0"
BESIDE = re.compile(
    r"\.osediff-(?:(?P<owner>[0-9a-f]{8}-\d+)-[0-9a-f]{8}(?:-(?P<tag>\w+))?|[0-9a-f]{12})\.part"
)
"""Names of what is written beside; the form without an owner is that of earlier versions."""
IDLE = 3600  # seconds without a change after which what is no process of this machine is gone
PROBE = 1 << 20  # bytes that a disk which is not full takes
CANNOT_FLUSH = frozenset(
    (
        errno.EINVAL,
        errno.ENOSYS,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.ENOTTY,
        errno.EPERM,
        errno.EACCES,
    )
)
"""What shares, FUSE and sandboxes answer where there is no fsync; the content was written all the same."""
REMEDIES = {
    errno.ENOSPC: "; make room and start again",
    errno.EDQUOT: "; make room and start again",
    errno.EFBIG: "; the place, or a limit (ulimit -f), takes no file of this size: name another place",
}


def write_whole(path: Path, content: bytes) -> None:
    """Write a file; OSEDiffError where that cannot be done. An old one stays until the new one is whole."""
    write_beside(path, lambda beside: beside.write_bytes(content))


def write_beside(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under another name, then put it in place; a failure leaves nothing behind.

    What `write` raises of the system's and the writing libraries' errors becomes an OSEDiffError.
    """
    write_together({path: write})


def write_together(writes: Mapping[Path, Callable[[Path], object]]) -> None:
    """Let each function make the file of its path; as `write_beside`, and all are put in place or none."""
    besides = {path: name_beside(path) for path in writes}
    try:
        for path, beside in besides.items():
            with writing(path, beside):
                _fill(beside, writes[path])
        _put_in_place(besides)
    finally:
        for beside in besides.values():
            with suppress(OSError):  # what went wrong above is the thing to hear about
                beside.unlink(missing_ok=True)


def write_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new folder under another name, then put it in place; as `write_beside`."""
    beside = name_beside(path)
    try:
        with writing(path, beside):
            beside.mkdir(parents=True)
            write(beside)
            mode = _usual_mode(beside)
            for file in beside.rglob("*"):
                if file.is_file():
                    _finish(file, mode)
            beside.rename(path)
    except OSEDiffError as error:  # the user knows the folder by its name
        raise OSEDiffError(str(error).replace(str(beside), str(path))) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def writing(what: Path, place: Path | None = None) -> Iterator[None]:
    """Make one sentence, an OSEDiffError, of what goes wrong while `what` is written.

    place: the file or folder that is written to, in which is tried what a library does not tell.
    """
    try:
        yield
    except OSError as error:
        raise OSEDiffError(f"{what} could not be written: {reason(error)}") from error
    except (RuntimeError, *_library_errors()) as error:
        cause = _system_error(error, place)
        why = str(error) if cause is None else reason(cause)
        raise OSEDiffError(f"{what} could not be written: {why}") from error


def reason(error: OSError) -> str:
    """Say why the system did not write, and what to do where that is known, as for a full disk."""
    return f"{error.strerror or error}{REMEDIES.get(error.errno or 0, '')}"


def flush(file: BinaryIO) -> None:
    """Bring a file to the disk; OSError where that failed, but not where the place knows no such thing."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in CANNOT_FLUSH:
            raise


def name_beside(path: Path, tag: str = "", owner: str | None = None) -> Path:
    """Return a name that no other process takes; short, for a name may be as long as the system allows.

    tag: letters and digits by which `left_behind` finds it. owner: this process; NOBODY gives it away.
    """
    owner = _this_process() if owner is None else owner
    tail = f"-{tag}" if tag else ""
    return path.with_name(f".osediff-{owner}-{uuid.uuid4().hex[:8]}{tail}.part")


def left_behind(folder: Path, tag: str = "") -> list[Path]:
    """Return what processes that are gone left in a folder; tag: a regular expression for the whole tag."""
    try:
        found = [(folder / name, BESIDE.fullmatch(name)) for name in sorted(os.listdir(folder))]
    except OSError:
        return []
    return [
        path
        for path, name in found
        if name and re.fullmatch(tag, name["tag"] or "") and _is_gone(name["owner"], path)
    ]


def sweep(folder: Path, tag: str = "") -> None:
    """Remove what `left_behind` finds; what cannot be removed stays."""
    for path in left_behind(folder, tag):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def _fill(beside: Path, write: Callable[[Path], object]) -> None:
    beside.touch(exist_ok=False)
    mode = beside.stat().st_mode
    write(beside)
    _finish(beside, mode)


def _finish(file: Path, mode: int) -> None:
    """Give a file the usual mode and bring it to the disk."""
    if file.stat().st_mode != mode:  # safetensors 0.8 makes files that only their owner may read
        with suppress(OSError):  # a share without modes; the content is there
            file.chmod(mode)
    with file.open("rb+") as content:
        flush(content)


def _usual_mode(folder: Path) -> int:
    """Return the mode that new files have in a folder."""
    probe = folder / "probe"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    return mode


def _put_in_place(besides: Mapping[Path, Path]) -> None:
    """Rename all, or, where one of several cannot be renamed, leave all as they were."""
    olds = {path: name_beside(path) for path in besides} if len(besides) > 1 else {}
    done: list[Path] = []
    try:
        for path, old in olds.items():
            with writing(path):
                if path.exists():
                    shutil.copy2(path, old)
        for path, beside in besides.items():
            with writing(path):
                os.replace(beside, path)
            done.append(path)
    except BaseException:
        for path in done:
            with suppress(OSError):
                os.replace(olds[path], path) if olds[path].exists() else path.unlink()
        raise
    finally:
        for old in olds.values():
            with suppress(OSError):
                old.unlink(missing_ok=True)


def _this_process() -> str:
    """Name this process: a hash of its machine and namespace of process numbers, and its number."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # containers may share a volume and the machine's name
    except OSError:
        namespace = ""
    machine = hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]
    return f"{machine}-{os.getpid()}"


def _is_gone(owner: str | None, path: Path) -> bool:
    """Whether who made a file or folder is gone; a process elsewhere is judged by when it last wrote."""
    if owner == NOBODY:
        return True
    machine, _, number = (owner or "").partition("-")
    if machine == _this_process().partition("-")[0] and os.name == "posix":
        return not _is_running(int(number))
    try:
        newest = max(one.lstat().st_mtime for one in (path, *path.rglob("*")))
    except OSError:  # it is just being renamed or removed
        return False
    return time.time() - newest > IDLE


def _is_running(number: int) -> bool:
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def _system_error(error: BaseException, place: Path | None) -> OSError | None:
    """Find the system's error behind a library's, which may keep it to itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    told = re.search(r"\bos error (\d+)", str(error))  # how Rust, in which safetensors is written, says it
    if told and os.name == "posix":
        return OSError(int(told[1]), os.strerror(int(told[1])))
    return None if place is None else _try(place)


def _try(place: Path) -> OSError | None:
    """Write a little more to a file or folder, and return how that failed."""
    try:
        with (place / "probe" if place.is_dir() else place).open("ab") as file:
            file.write(bytes(PROBE))
            flush(file)
    except OSError as error:
        return error
    return None


def _library_errors() -> tuple[type[Exception], ...]:
    from safetensors import SafetensorError

    return (SafetensorError,)

"""Where the members of a torch file lie, which is a zip without compression."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from pathlib import Path
from typing import IO

from .. import limits
from ..errors import OSEDiffError

SCRIPT = re.compile(r"/(code/|constants\.pkl$|bytecode\.pkl$)|\.py(\.debug_pkl)?$")
"""Members that TorchScript has besides tensors: a program, which torch runs when it loads the file. They lie
in a folder called like the file, which may be called code itself."""

LOCAL_HEADER, LOCAL_MARK = struct.Struct("<4s22xHH"), b"PK\x03\x04"


def find_members(path: Path, file: IO[bytes], size: int) -> dict[str, tuple[int, int]]:
    """Return where each member of a zip begins in the file and how many bytes it has.

    Raises OSEDiffError for one with a program, a compressed or too long one, ValueError for a damaged one.
    """
    try:
        with zipfile.ZipFile(_Bounded(file)) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OverflowError) as error:
        raise ValueError("a damaged zip") from error
    if any(SCRIPT.search(member.filename) for member in listed):
        raise OSEDiffError(
            f"{path} carries code besides tensors (a TorchScript program), which was not executed: get its "
            "weights as .safetensors"
        )
    if len(listed) > limits.TENSORS:
        raise OSEDiffError(
            f"{path} has {len(listed):,} members, {limits.TENSORS:,} are the most that are read"
        )
    if any(member.compress_type != zipfile.ZIP_STORED for member in listed):
        raise OSEDiffError(f"{path} is a compressed zip, and torch writes none: unpack it, or get it again")
    return {member.filename: _place(member, file, size) for member in listed}


def _place(member: zipfile.ZipInfo, file: IO[bytes], size: int) -> tuple[int, int]:
    """Return where a member's bytes are; ValueError where they are not within the file."""
    file.seek(member.header_offset)
    mark, name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    begin = member.header_offset + LOCAL_HEADER.size + name + extra
    if mark != LOCAL_MARK or begin + member.file_size > size:
        raise ValueError("a member beyond the file")
    return begin, member.file_size


class _Bounded(io.RawIOBase):
    """A file that gives no more bytes at once than a zip's directory may have: its length is in the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if size > limits.DIRECTORY_BYTES:
            raise ValueError("a list of members that is too long")
        return self._file.read(limits.DIRECTORY_BYTES if size < 0 else size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

"""What torch.save wrote, read without torch's reader and without executing anything."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO

import torch

from .. import limits
from ..errors import OSEDiffError
from .files import check_file
from .pickle_machine import CodeError, Cut, Machine, Storage
from .stored import Stored
from .zips import find_members

TORCH_THAT_MAY = (2, 6)
"""Before it torch could be made to run a pickle's code (CVE-2025-32434). Torch's reader is used for states of
trainings alone: for weights this is a second wall.
"""
MAGIC = 0x1950A86A20F9469CFC6C  # begins what torch before 1.6 wrote


def load_pickle(path: str | Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the tensors of a torch file by key, none of them read, and the text and numbers beside them.

    They are those of its "state_dict" where training wrote one; a table in the table has its name before its
    keys. Raises OSEDiffError for a file that is missing, empty, truncated, unsafe or out of bounds.
    """
    path = Path(path)
    size = check_file(path)
    check_torch(path)
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _of_zip(path, file, size) if zipped else _of_old_file(file, size)
    except OSEDiffError:
        raise
    except CodeError as error:
        if str(error).startswith("torch."):
            raise OSEDiffError(
                f"{path} has {error} in it, a kind of tensor or model that is not read here: get its weights "
                "as plain tensors in float16 or float32"
            ) from error
        raise OSEDiffError(
            f"{path} carries code besides tensors ({error}), which was not executed: get the file from a "
            "source that you trust"
        ) from error
    except OSError as error:
        raise OSEDiffError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, struct.error) as error:
        raise OSEDiffError(
            f"{path} is damaged or no weights file (code in it, if any, was not executed): get the file again"
        ) from error


def check_torch(path: Path) -> None:
    """Raise OSEDiffError where no pickle is read, for torch is too old."""
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < TORCH_THAT_MAY:
        raise OSEDiffError(
            f"{path} is a pickle, which this program does not read with PyTorch {torch.__version__}: update "
            f"PyTorch to {'.'.join(map(str, TORCH_THAT_MAY))} or later, or get the file as .safetensors"
        )


def _of_zip(path: Path, file: IO[bytes], size: int) -> tuple[dict[str, Stored], dict[str, str]]:
    members = find_members(path, file, size)
    top = next((name[: -len("data.pkl")] for name in members if name.endswith("/data.pkl")), None)
    if top is None:
        raise ValueError("no pickle in the zip")
    begin, length = members[f"{top}data.pkl"]
    if length > limits.PICKLE_BYTES:
        raise OSEDiffError(
            f"{path} has {length:,} bytes besides its tensors, and {limits.PICKLE_BYTES:,} are the most "
            "that is read: get it as .safetensors"
        )
    if f"{top}byteorder" in members:
        file.seek(members[f"{top}byteorder"][0])
        if file.read(6) == b"big":
            raise OSEDiffError(
                f"{path} has its numbers in the order of another machine: get it as .safetensors"
            )
    file.seek(begin)
    content = Machine(file.read(length)).run()

    def place(storage: Storage) -> tuple[int, int]:
        found = members.get(f"{top}data/{storage.key}")
        if found is None:
            raise ValueError("a storage is missing")
        return found

    return _flattened(content, place)


def _of_old_file(file: IO[bytes], size: int) -> tuple[dict[str, Stored], dict[str, str]]:
    """Read a number, a version, notes on the machine, the content and the order of the storages."""
    machine = Machine(file.read(limits.PICKLE_BYTES))
    first = machine.run()
    if first != MAGIC:
        raise ValueError("not from torch")
    machine.run()
    if machine.run() == {"little_endian": False}:
        raise ValueError("the order of another machine")
    content, keys = machine.run(), machine.run()
    if not isinstance(keys, list):
        raise ValueError("no list of storages")
    places: dict[str, tuple[int, int]] = {}
    begin = machine.position
    for key in keys:
        storage = machine.storages.get(key) if isinstance(key, str) else None
        if storage is None or begin + 8 > size:
            raise ValueError("the storages are not those of the content")
        length = storage.count * storage.dtype.itemsize
        places[storage.key] = begin + 8, min(length, size - begin - 8)
        begin += 8 + length

    def place(storage: Storage) -> tuple[int, int]:
        if storage.key not in places:
            raise ValueError("a storage is missing")
        return places[storage.key]

    return _flattened(content, place)


def _flattened(
    content: object, place: Callable[[Storage], tuple[int, int]]
) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the tensors in a table and in its tables, and the text and numbers of the table itself."""
    for _ in range(limits.NESTING):  # a table may be its own "state_dict"
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
    cuts: dict[str, Cut] = {}
    beside: dict[str, str] = {}
    for name, value in content.items() if isinstance(content, dict) else ():
        inner = value if isinstance(value, dict) else {}
        cuts |= {f"{_name(name)}.{_name(key)}": cut for key, cut in inner.items() if isinstance(cut, Cut)}
        if isinstance(value, Cut):
            cuts[_name(name)] = value
        elif isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 1 << 63):
            beside[_name(name)] = str(value)
        if len(cuts) > limits.TENSORS:
            raise ValueError("too many tensors")
    return {key: _stored(cut, *place(cut.storage)) for key, cut in cuts.items()}, beside


def _name(key: object) -> str:
    name = str(key)
    if len(name) > limits.NAME:  # it may be said of every tensor
        raise ValueError("a name that is too long")
    return name


def _stored(cut: Cut, begin: int, length: int) -> Stored:
    """Return where a tensor's bytes are; ValueError unless they are all within its storage."""
    stored = Stored(cut.dtype, cut.shape, begin + cut.begin * cut.dtype.itemsize, cut.stride)
    if cut.begin * cut.dtype.itemsize + stored.span > length:
        raise ValueError("a tensor beyond its storage")
    return stored

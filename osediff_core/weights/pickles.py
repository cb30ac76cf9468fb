"""What torch.save wrote, read without torch's reader and without executing anything.

A pickle is a program for a small machine. This one is that machine with nothing behind it: it makes lists,
tables, text and numbers, and where a tensor is to be built it notes where its numbers lie. No name in the
file is ever looked up, so nothing in it can be called; a name that is not known here ends the reading.
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from .. import limits
from ..errors import OSEDiffError
from .files import check_file
from .stored import DTYPES, Stored
from .zips import find_members

TORCH_THAT_MAY = (2, 6)
"""Before it torch could be made to run a pickle's code (CVE-2025-32434). Torch's reader is not used
here: this is a second wall, for whatever else may come to hand the file on to it.
"""
MAGIC = 0x1950A86A20F9469CFC6C  # begins what torch before 1.6 wrote

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip
TYPES = {str(dtype): dtype for dtype in DTYPES.values()}  # "torch.float32"
UNWANTED = {
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    # losses and learning rates, in the names of numpy 1 and 2
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype", "numpy.ndarray", "_codecs.encode",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "complex")),
    "torch.device", "torch.serialization._get_layout", "torch._utils._rebuild_meta_tensor_no_storage",
}  # fmt: skip
"""What training leaves in a checkpoint that is not wanted, but no reason to refuse the file."""
PARAMETER = "torch.nn.parameter.Parameter"  # said of what a tensor was; nothing is made of it


@dataclass(frozen=True)
class Storage:
    """Numbers in a row that tensors are cut from: the name of the row, what they are and how many."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class Cut:
    """A tensor as a cut of a storage; begin and stride count numbers of `dtype`."""

    storage: Storage
    dtype: torch.dtype
    begin: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Named:
    name: str


class _Unwanted:
    """Stands for what was left out, takes whatever a pickle gives it, and keeps none of it."""


class _CodeError(ValueError):
    """A name that is no part of tensors and plain values."""


def load_pickle(path: str | Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the tensors of a torch file by key, none of them read, and the text and numbers beside them.

    They are those of its "state_dict" where training wrote one; a table in the table has its name before its
    keys. Raises OSEDiffError for a file that is missing, empty, truncated, unsafe or out of bounds.
    """
    path = Path(path)
    size = check_file(path)
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < TORCH_THAT_MAY:
        raise OSEDiffError(
            f"{path} is a pickle, which this program does not read with PyTorch {torch.__version__}: update "
            f"PyTorch to {'.'.join(map(str, TORCH_THAT_MAY))} or later, or get the file as .safetensors"
        )
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _of_zip(path, file, size) if zipped else _of_old_file(file, size)
    except OSEDiffError:
        raise
    except _CodeError as error:
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
    content = _Machine(file.read(length)).run()

    def place(storage: Storage) -> tuple[int, int]:
        found = members.get(f"{top}data/{storage.key}")
        if found is None:
            raise ValueError("a storage is missing")
        return found

    return _flattened(content, place)


def _of_old_file(file: IO[bytes], size: int) -> tuple[dict[str, Stored], dict[str, str]]:
    """Read a number, a version, notes on the machine, the content and the order of the storages."""
    machine = _Machine(file.read(limits.PICKLE_BYTES))
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
        cuts |= {f"{name}.{key}": cut for key, cut in inner.items() if isinstance(cut, Cut)}
        if isinstance(value, Cut):
            cuts[str(name)] = value
        elif isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 1 << 63):
            beside[str(name)] = str(value)
        if len(cuts) > limits.TENSORS:
            raise ValueError("too many tensors")
    return {key: _stored(cut, *place(cut.storage)) for key, cut in cuts.items()}, beside


def _stored(cut: Cut, begin: int, length: int) -> Stored:
    """Return where a tensor's bytes are; ValueError unless they are all within its storage."""
    if len(cut.shape) != len(cut.stride) or min((cut.begin, *cut.shape, *cut.stride), default=0) < 0:
        raise ValueError("a tensor that cannot be")
    stored = Stored(cut.dtype, cut.shape, begin + cut.begin * cut.dtype.itemsize, cut.stride)
    if cut.begin * cut.dtype.itemsize + stored.span > length:
        raise ValueError("a tensor beyond its storage")
    return stored


class _Machine:
    """Runs one pickle after the other; a step that it does not know is a ValueError."""

    def __init__(self, content: bytes) -> None:
        self.storages: dict[str, Storage] = {}
        self._file = io.BytesIO(content)
        self._steps = 0

    @property
    def position(self) -> int:
        """Where the next pickle begins, in bytes."""
        return self._file.tell()

    def run(self) -> object:
        """Return what the next pickle makes."""
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(self._file):
            self._steps += 1
            if self._steps > limits.PICKLE_STEPS:
                raise ValueError("too many steps")
            if opcode.name == "STOP":
                return self._pop()
            self._step(opcode.name, argument)
        raise ValueError("no end")

    def _step(self, name: str, argument: Any) -> None:  # noqa: ANN401
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _MADE:
            self._stack.append(_MADE[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = self._top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in self._memo:
                raise ValueError("nothing to get")
            self._stack.append(self._memo[argument])
        elif name == "MARK":
            self._marked.append(self._stack)
            self._stack = []
        elif name in ("TUPLE", "LIST", "DICT"):
            items = self._since_mark()
            self._stack.append({"TUPLE": tuple, "LIST": list, "DICT": _table}[name](items))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = [self._pop() for _ in range(int(name[-1]))]
            self._stack.append(tuple(reversed(items)))
        elif name in ("APPEND", "APPENDS"):
            items = [self._pop()] if name == "APPEND" else self._since_mark()
            if not isinstance(self._top(), list):
                raise ValueError("no list")
            self._top().extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [self._pop(), self._pop()][::-1] if name == "SETITEM" else self._since_mark()
            if not isinstance(self._top(), dict):
                raise ValueError("no table")
            self._top().update(_table(items))
        elif name == "ADDITEMS":
            self._since_mark()
        elif name == "FROZENSET":
            self._since_mark()
            self._stack.append(_Unwanted())
        elif name == "GLOBAL":
            self._stack.append(_named(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            last, module = self._pop(), self._pop()
            if not isinstance(module, str) or not isinstance(last, str):
                raise ValueError("no name")
            self._stack.append(_named(f"{module}.{last}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, named = self._pop(), self._pop()
            self._stack.append(_built(named, arguments))
        elif name == "BUILD":  # attributes of what is built, which are not wanted
            self._pop()
            self._top()
        elif name == "BINPERSID":
            storage = _storage(self._pop())
            self.storages.setdefault(storage.key, storage)
            self._stack.append(storage)
        elif name == "POP":
            self._pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"the step {name}")

    def _pop(self) -> Any:  # noqa: ANN401
        self._top()
        return self._stack.pop()

    def _top(self) -> Any:  # noqa: ANN401
        if not self._stack:
            raise ValueError("nothing there")
        return self._stack[-1]

    def _since_mark(self) -> list[Any]:
        if not self._marked:
            raise ValueError("no mark")
        items, self._stack = self._stack, self._marked.pop()
        return items


_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
    "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_MADE: dict[str, Callable[[], object]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list,
    "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": _Unwanted,
}  # fmt: skip


_KEYS = (str, int, float, bytes, _Named, _Unwanted)


def _table(items: list[Any]) -> dict[Any, Any]:
    """Return keys and values in turns as a table; a key is a plain value: hashing others may never end."""
    keys = items[::2]
    if len(items) % 2 or not all(key is None or isinstance(key, _KEYS) for key in keys):
        raise ValueError("a key that cannot be")
    return dict(zip(keys, items[1::2], strict=True))


def _named(name: str) -> _Named:
    """Return a name that may stand in a file of weights."""
    module, _, last = name.rpartition(".")
    storage = module in ("torch", "torch.storage", "torch.cuda") and last in STORAGES
    if not (storage or name in _BUILDERS or name in TYPES or name in UNWANTED or name == PARAMETER):
        raise _CodeError(name)
    return _Named(name)


def _built(named: object, arguments: object) -> object:
    if isinstance(named, _Unwanted):
        return named
    if not isinstance(named, _Named) or not isinstance(arguments, tuple):
        raise ValueError("nothing that builds")
    if named.name in UNWANTED:
        return _Unwanted()
    if named.name not in _BUILDERS:
        raise ValueError(f"{named.name} builds nothing")
    try:
        return _BUILDERS[named.name](*arguments)
    except TypeError as error:  # other arguments than torch gives
        raise ValueError("a tensor that cannot be") from error


def _storage(said: object) -> Storage:
    """Return the storage that a file refers to: ("storage", kind, key, device, count) and perhaps a view."""
    match said:
        case ("storage", _Named(name=kind), str(key), _, int(count), *_):
            dtype = STORAGES.get(kind.rpartition(".")[2])
            if dtype is not None and count >= 0:
                return Storage(key, dtype, count)
    raise ValueError("no storage")


def _cut(storage: object, dtype: object, begin: object, shape: object, stride: object) -> Cut:
    match storage, dtype, begin, shape, stride:
        case (Storage(), torch.dtype(), int(), tuple(), tuple()):
            if all(isinstance(number, int) for number in (*shape, *stride)):
                return Cut(storage, dtype, begin, shape, stride)
    raise ValueError("no tensor")


def _tensor(storage: object, begin: object, shape: object, stride: object, *_: object) -> Cut:
    return _cut(storage, getattr(storage, "dtype", None), begin, shape, stride)


def _tensor_of_type(
    storage: object,
    begin: object,
    shape: object,
    stride: object,
    grad: object,
    hooks: object,
    dtype: object,
    *_: object,
) -> Cut:
    """As torch writes types that have no storage of their own, float8 among them."""
    return _cut(storage, TYPES.get(dtype.name) if isinstance(dtype, _Named) else None, begin, shape, stride)


def _of_kind(builder: object, kind: object, arguments: object, *_: object) -> object:
    """As torch writes tensors of a class of their own; what is within such a tensor is a plain one."""
    if isinstance(builder, _Named) and _BUILDERS.get(builder.name) is _of_kind:
        raise ValueError("no tensor")
    return _built(builder, arguments)


_BUILDERS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _of_kind,
    "torch.Size": lambda sides=(): tuple(sides) if isinstance(sides, list | tuple) else _Unwanted(),
    "collections.OrderedDict": lambda pairs=(): _pairs(pairs),
    "collections.Counter": lambda counts=(): _pairs(counts.items() if isinstance(counts, dict) else ()),
}


def _pairs(pairs: Any) -> dict[Any, Any]:  # noqa: ANN401
    """Return a table of pairs, as old pickles fill an OrderedDict."""
    flat = [part for pair in pairs for part in pair]
    return _table(flat)

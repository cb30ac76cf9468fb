"""The small machine that a pickle is a program for, with nothing behind it.

It makes lists, tables, text and numbers, and where a tensor is to be built it notes where its numbers lie. No
name in a file is ever looked up, so nothing in it can be called; one that is not known here ends the reading.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .. import limits
from .stored import DTYPES

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
MOST = 1 << 60  # what a file may count to: numbers of 64 bits, and room to add
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


class CodeError(ValueError):
    """A name that is no part of tensors and plain values."""


class Machine:
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
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
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
        raise CodeError(name)
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
            if dtype is not None and 0 <= count < MOST:
                return Storage(key, dtype, count)
    raise ValueError("no storage")


def _cut(storage: object, dtype: object, begin: object, shape: object, stride: object) -> Cut:
    match storage, dtype, begin, shape, stride:
        case (Storage(), torch.dtype(), int(), tuple(), tuple()):
            if len(shape) == len(stride) <= limits.SIDES and all(map(_counts, (begin, *shape, *stride))):
                return Cut(storage, dtype, begin, shape, stride)
    raise ValueError("no tensor")


def _counts(number: object) -> bool:
    return isinstance(number, int) and 0 <= number < MOST


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
    # Nothing is copied: a file may say the same long list a million times.
    "torch.Size": lambda sides=(): sides,
    "collections.OrderedDict": lambda: {},
    "collections.Counter": lambda counts=(): counts,
}

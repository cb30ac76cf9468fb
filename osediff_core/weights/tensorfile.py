"""The tensors of a weights file, one by one: what is in it is known before any of them is read.

A .safetensors file is mapped into memory and its pages are given back as they are used, so that a network is
never there twice, once as the file's pages and once as weights. A torch file (.ckpt, .bin, .pth) is mapped by
torch, which takes tensors and plain values from it and runs no code that it may carry.
"""

from __future__ import annotations

import json
import mmap
import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import OSEDiffError
from .pickles import load_pickle

# Names of the safetensors format. The types of eight bits came to torch at different times.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": getattr(torch, "float8_e4m3fn", None),
    "F8_E5M2": getattr(torch, "float8_e5m2", None),
}
LONGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors format


class TensorFile:
    """A file of tensors: `shapes` by key, `metadata`, and the tensors themselves when they are asked for."""

    def __init__(self, path: str | Path) -> None:
        """Read the header. Raises OSEDiffError if the file is missing, empty, cut off or no weights file."""
        self.path = Path(path)
        self.metadata: dict[str, str] = {}
        self._map: mmap.mmap | None = None
        self._entries: dict[str, dict[str, Any]] = {}
        self._tensors: dict[str, Tensor] = {}
        if self.path.exists() and not (self.path.is_file() or self.path.is_dir()):
            raise OSEDiffError(f"{path} is a pipe, socket or device; name a file of weights")
        if is_torch_file(self.path):
            self._tensors = _state_dict(load_pickle(self.path, mapped=True))
            self.shapes = {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}
        else:
            self._start, header = _read_header(self.path)
            self.metadata = header.pop("__metadata__", None) or {}
            self._entries = header
            self.shapes = {key: tuple(entry["shape"]) for key, entry in header.items()}

    def dtype(self, key: str) -> torch.dtype:
        """Return the number format that a tensor is stored in."""
        return DTYPES[self._entries[key]["dtype"]] if self._entries else self._tensors[key].dtype

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor as a view of the file, read where it is used and not to be written to."""
        if not self._entries:
            return dict(self._tensors)
        if self._map is None:
            with self.path.open("rb") as file:
                # A private mapping: writable for torch's sake, and no write would reach the file.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return {key: self._view(self._map, key) for key in self._entries}

    def release(self) -> None:
        """Give the pages back that were read so far; a tensor that is used again is read again."""
        if self._map is not None and hasattr(self._map, "madvise"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)

    def _view(self, content: mmap.mmap, key: str) -> Tensor:
        shape, dtype = self.shapes[key], self.dtype(key)
        begin, end = (self._start + offset for offset in self._entries[key]["data_offsets"])
        if begin == end:
            return torch.empty(shape, dtype=dtype)
        if begin % dtype.itemsize:  # allowed by the format, though no writer of today does it
            return torch.frombuffer(bytearray(content[begin:end]), dtype=dtype).reshape(shape)
        count = (end - begin) // dtype.itemsize
        return torch.frombuffer(content, dtype=dtype, count=count, offset=begin).reshape(shape)


def is_torch_file(path: Path) -> bool:
    """Return whether a file is a zip or a pickle, by its first bytes; OSEDiffError where it is no weights."""
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as error:
        raise OSEDiffError(f"{path} cannot be read: {error.strerror or error}") from error
    if not start:
        raise OSEDiffError(f"{path} is empty (0 bytes), so its download or copy failed: get the file again")
    if start[8:9] == b"{":  # .safetensors: before it the header's length, whose bytes may look like anything
        return False
    if start.startswith(b"version https://git-lfs"):
        raise OSEDiffError(f"{path} is only Git's note where the weights are (Git LFS): run `git lfs pull`")
    if start.lstrip()[:1] == b"<":
        raise OSEDiffError(f"{path} is a web page and no weights file, so its download failed: get it again")
    # torch.load itself goes by this ending, whatever the content.
    return path.suffix != ".safetensors" and (start[:4] == b"PK\x03\x04" or start[:1] == b"\x80")


def _read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Return where the tensors of a .safetensors file begin, and what its header says of them."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > LONGEST_HEADER:
            raise OSEDiffError(f"{path} is damaged or no weights file: get the file again")
        text = file.read(length)
    if len(text) < length:
        raise OSEDiffError(f"{path} ends within its header, so its download was cut off: get the file again")
    try:
        header = json.loads(text)
        tensors = {key: entry for key, entry in header.items() if key != "__metadata__"}
        ends = [_checked_end(entry, path) for entry in tensors.values()]
        _check_metadata(header)
    except OSEDiffError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OSEDiffError(f"{path} is damaged or no .safetensors file: get the file again") from error
    _check_size(path, size, 8 + length + max(ends, default=0))
    return 8 + length, header


def _checked_end(entry: Mapping[str, Any], path: Path) -> int:
    """Return where a tensor ends, counted from the first; raises what json's contents can raise."""
    begin, end = entry["data_offsets"]
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise OSEDiffError(
            f"{path} has numbers of the type {entry['dtype']}, which this program or its PyTorch does not "
            "know: get the file in float16 or float32"
        )
    numbers = 1
    for side in entry["shape"]:
        numbers *= operator.index(side)
    if begin < 0 or min(entry["shape"], default=0) < 0 or end - begin != numbers * dtype.itemsize:
        raise ValueError("offsets and shape do not agree")
    return end


def _check_metadata(header: Mapping[str, Any]) -> None:
    said = header.get("__metadata__") or {}
    if not all(isinstance(text, str) for text in (*said.keys(), *said.values())):
        raise ValueError("metadata is text")


def _check_size(path: Path, size: int, expected: int) -> None:
    if size < expected:
        raise OSEDiffError(
            f"{path} is cut off: it has {size:,} of {expected:,} bytes, so its download or copy did not "
            "finish; get the file again"
        )


def _state_dict(content: object) -> dict[str, Tensor]:
    """Return the tensors of a torch file by key, out of the "state_dict" where training wrote one."""
    while isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        return {}
    inner = {f"{name}.{key}": value for name, part in content.items() for key, value in _items(part)}
    return {str(key): value for key, value in {**content, **inner}.items() if isinstance(value, Tensor)}


def _items(part: object) -> Iterable[tuple[object, object]]:
    return part.items() if isinstance(part, Mapping) else ()

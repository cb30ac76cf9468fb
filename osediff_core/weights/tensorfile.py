"""The tensors of a weights file, one by one: what is in it is known before any of them is read.

A tensor is read when it is asked for, by itself, so that a network is never there twice, once as its file and
once as weights. Nothing is mapped: a file that is cut off or replaced meanwhile is an error that can be told,
where a map of it would end the process.
"""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import limits
from ..errors import OSEDiffError
from ..text_files import parse_json
from .files import check_file
from .names import added_words, plain_names
from .pickles import load_pickle
from .stored import DTYPES, Stored

logger = logging.getLogger(__name__)


class TensorFile:
    """A file of tensors: `shapes` by key, `metadata`, and the tensors themselves when they are asked for.

    What wrappers and averages of a training add to the keys is taken off. metadata: what the header says,
    or, of a torch file, the text and numbers that lie beside its tensors.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the header. Raises OSEDiffError if the file is missing, empty, cut off or no weights file."""
        self.path = Path(path)
        check_file(self.path)
        self._version = _version(self.path)
        torch_file = is_torch_file(self.path)
        stored, self.metadata = load_pickle(self.path) if torch_file else _read_header(self.path)
        _check_bounds(stored, self.path)
        try:
            names = plain_names(stored)
        except ValueError as error:
            raise OSEDiffError(f"{self.path} has a tensor twice ({error}): save it anew") from error
        if added := added_words(names):
            logger.info("%s: left %s out of the names of its tensors", self.path, ", ".join(added))
        self._stored = {short: stored[name] for short, name in names.items()}
        self.shapes = {key: tensor.shape for key, tensor in self._stored.items()}

    def dtype(self, key: str) -> torch.dtype:
        """Return the number format that a tensor is stored in."""
        return self._stored[key].dtype

    def blank(self, key: str) -> Tensor:
        """Return a tensor without values, on the meta device."""
        return torch.empty(self.shapes[key], dtype=self.dtype(key), device="meta")

    def read(self, key: str) -> Tensor:
        """Return a tensor; OSEDiffError where the file is no longer what it was."""
        stored = self._stored[key]
        content = torch.empty(stored.span, dtype=torch.uint8)  # not filled with zeros first
        try:
            with self.path.open("rb", buffering=0) as file:
                same = _version_of(os.fstat(file.fileno())) == self._version
                file.seek(stored.begin)
                filled, view = 0, content.numpy().data
                while same and filled < len(content):
                    count = file.readinto(view[filled:])
                    same, filled = bool(count), filled + (count or 0)
        except OSError as error:
            raise OSEDiffError(f"{self.path} cannot be read: {error.strerror or error}") from error
        if not same:
            raise OSEDiffError(f"{self.path} was changed while it was read: start again when it is whole")
        return stored.of(content)


def _version(path: Path) -> tuple[int, int]:
    return _version_of(path.stat())


def _version_of(status: os.stat_result) -> tuple[int, int]:
    """Return what differs between two states of a file."""
    return status.st_size, status.st_mtime_ns


def is_torch_file(path: Path) -> bool:
    """Return whether a file is read as a pickle, by its first bytes; OSEDiffError where it is no weights."""
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as error:
        raise OSEDiffError(f"{path} cannot be read: {error.strerror or error}") from error
    if start[8:9] == b"{":  # .safetensors: before it the header's length, whose bytes may look like anything
        return False
    if start.startswith(b"version https://git-lfs"):
        raise OSEDiffError(f"{path} is only Git's note where the weights are (Git LFS): run `git lfs pull`")
    if start.lstrip()[:1] == b"<":
        raise OSEDiffError(f"{path} is a web page and no weights file, so its download failed: get it again")
    if start.startswith(b"GGUF"):
        raise OSEDiffError(
            f"{path} is a GGUF file, whose quantized weights are not read here: get it in float16"
        )
    return path.suffix.lower() not in (".safetensors", ".sft")


def _read_header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the tensors of a .safetensors file and its metadata, from its header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or (length > limits.HEADER_BYTES and 8 + length > size):
            raise OSEDiffError(f"{path} is damaged or no weights file: get the file again")
        if length > limits.HEADER_BYTES:
            raise OSEDiffError(
                f"{path} has a header of {length:,} bytes, but {limits.HEADER_BYTES:,} are the most that is "
                "read: save its tensors anew"
            )
        text = file.read(length)
    if len(text) < length:
        raise OSEDiffError(f"{path} ends within its header, so its download was cut off: get the file again")
    try:
        header = parse_json(text)
        said = header.pop("__metadata__", None) or {}
        if not all(isinstance(word, str) for word in (*said.keys(), *said.values())):
            raise ValueError("metadata is text")
        if len(header) > limits.TENSORS:
            raise OSEDiffError(
                f"{path} has {len(header):,} tensors, {limits.TENSORS:,} are the most that are read"
            )
        tensors = {key: _entry(entry, 8 + length, path) for key, entry in header.items()}
    except OSEDiffError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OSEDiffError(f"{path} is damaged or no .safetensors file: get the file again") from error
    expected = max((tensor.begin + tensor.size for tensor in tensors.values()), default=0)
    if size < expected:
        raise OSEDiffError(
            f"{path} is cut off: it has {size:,} of {expected:,} bytes, so its download or copy did not "
            "finish; get the file again"
        )
    return tensors, said


def _entry(entry: Mapping[str, Any], start: int, path: Path) -> Stored:
    """Return one tensor of a header; raises what json's contents can raise."""
    begin, end = map(operator.index, entry["data_offsets"])
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise OSEDiffError(
            f"{path} has numbers of the type {entry['dtype']}, which this program or its PyTorch does not "
            "know: get the file in float16 or float32"
        )
    stored = Stored(dtype, tuple(map(operator.index, entry["shape"])), start + begin)
    whole = all(0 <= number < 1 << 60 for number in (begin, end, *stored.shape))
    if not whole or len(stored.shape) > limits.SIDES or end - begin != stored.size:
        raise ValueError("offsets and shape do not agree")
    return stored


def _check_bounds(stored: Mapping[str, Stored], path: Path) -> None:
    """Raise OSEDiffError where reading all tensors would take more than the file's size explains."""
    size = path.stat().st_size
    for key, tensor in stored.items():
        if len(key) > limits.NAME:
            raise OSEDiffError(f"{path} has a name of {len(key):,} letters for a tensor: get the file again")
        if not tensor.is_possible():
            raise OSEDiffError(f"{path} is damaged: {key} has the shape {tensor.shape}; get the file again")
    total = sum(tensor.size for tensor in stored.values())
    if total > limits.SHARING * size:
        raise OSEDiffError(
            f"{path} has {size:,} bytes, and its tensors would take {total:,}: it is damaged, or made to "
            "fill memory; get it from its source again"
        )

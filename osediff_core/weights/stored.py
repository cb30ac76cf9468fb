"""A tensor that is still in its file: its number format, its shape, and where its bytes are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import limits

# Names of the safetensors format; not every torch has all of them.
_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
    "U64": "uint64", "U32": "uint32", "U16": "uint16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, dtype) for name, dtype in _NAMES.items() if hasattr(torch, dtype)
}


@dataclass(frozen=True)
class Stored:
    """begin: of the tensor's bytes in the file. stride: in numbers, or None where they follow each other."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    stride: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """Bytes that the tensor takes in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def span(self) -> int:
        """Bytes of the file from the tensor's first number to the end of its last."""
        if self.stride is None or self.size == 0:
            return self.size
        last = sum((side - 1) * step for side, step in zip(self.shape, self.stride, strict=True))
        return (last + 1) * self.dtype.itemsize

    def is_possible(self) -> bool:
        """Return whether there can be such a tensor, so that asking torch for one is safe."""
        sides = [max(side, 1) for side in self.shape]
        return len(sides) <= limits.SIDES and math.prod(sides) * self.dtype.itemsize < 1 << 60

    def of(self, content: Tensor) -> Tensor:
        """Return the tensor that `span` bytes of the file are, (span,) uint8."""
        if self.size == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        numbers = content.view(self.dtype)
        if self.stride is None:
            return numbers.reshape(self.shape)
        return numbers.as_strided(self.shape, self.stride).contiguous()

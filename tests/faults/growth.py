"""How much a process grows by the same work over and over."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

PERIOD = 10  # runs after which the same kinds of work come again; one measurement for each
FEW_TENSORS = 4
FEW_BYTES = (
    24 << 20
)  # what an allocator may keep of pieces; a leak of one picture a run is several times that


@dataclass(frozen=True)
class Growth:
    """Medians of the last quarter of the runs, less those of the second: the first is the warm-up."""

    tensors: float
    resident: float  # bytes

    @property
    def is_flat(self) -> bool:
        """Whether nothing was kept, within what an allocator may."""
        return self.tensors <= FEW_TENSORS and self.resident <= FEW_BYTES


def growth(run: Callable[[int], object], times: int) -> Growth:
    """Call `run` with 0 to times - 1, and measure after each `PERIOD` of them."""
    found = []
    for number in range(times):
        run(number)
        if number % PERIOD == PERIOD - 1:
            gc.collect()
            found.append((tensors(), resident()))
    quarter = len(found) // 4
    before, after = found[quarter : 2 * quarter], found[-quarter:]
    return Growth(*(median(m[i] for m in after) - median(m[i] for m in before) for i in range(2)))


def tensors() -> int:
    """Count the tensors that are alive."""
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

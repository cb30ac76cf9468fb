"""How fast a run is, and what its time goes into, as its host sees it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch

T = TypeVar("T")
Part = Literal["data", "step"]
"""Waiting for batches (reading, degrading, prompts), and the steps; the rest is the log, samples, states."""

GIB = 2**30


class Pace:
    """Adds up the seconds of the parts of a run between two entries of the log."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Begin to count; `clock` gives seconds."""
        self._spent: dict[Part, float] = {"data": 0.0, "step": 0.0}
        self._clock, self._pictures = clock, 0
        self._since = clock()

    @contextmanager
    def spent(self, part: Part) -> Iterator[None]:
        """Count what is done inside to a part."""
        start = self._clock()
        try:
            yield
        finally:
            self._spent[part] += self._clock() - start

    def each(self, source: Iterable[T]) -> Iterator[T]:
        """Go through the batches of a source, the waiting for them counted."""
        iterator, end = iter(source), object()
        while True:
            with self.spent("data"):
                batch = next(iterator, end)
            if batch is end:
                return
            yield batch  # pyright: ignore[reportReturnType]

    def seen(self, pictures: int) -> None:
        """Count pictures that a step was taken with, of all processes."""
        self._pictures += pictures

    def numbers(self) -> dict[str, float]:
        """Tell pictures per second and the shares of the time since this was asked last, 0 to 1."""
        now = self._clock()
        seconds = max(now - self._since, 1e-9)
        shares = {part: spent / seconds for part, spent in self._spent.items()}
        found = {"pace/pictures per second": self._pictures / seconds}
        found |= {f"pace/share of {part}": share for part, share in shares.items()}
        found["pace/share of the rest"] = max(0.0, 1 - sum(shares.values()))
        self._since, self._pictures = now, 0
        self._spent = dict.fromkeys(self._spent, 0.0)
        return found


def peak_memory(device: torch.device) -> dict[str, float]:
    """Tell the most GiB that PyTorch has held on a card, elsewhere this process, so far; {} if unknown."""
    if device.type == "cuda":
        return {"pace/peak GiB": torch.cuda.max_memory_allocated(device) / GIB}
    if sys.platform == "win32":
        return {}
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return {"pace/peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB}

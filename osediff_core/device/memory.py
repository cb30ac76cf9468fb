"""How much memory is free, what an out-of-memory error looks like, and going on with less after one."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..errors import OSEDiffError

Attempt = TypeVar("Attempt")
Result = TypeVar("Result")

# What allocators say that raise a plain RuntimeError: MPS, the CPU's, cuBLAS, and older PyTorch.
WORDS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed", "failed to allocate")

REMEDY = "take a smaller scale, cut the picture into parts, or close other programs"

logger = logging.getLogger(__name__)


class NotEnoughMemoryError(OSEDiffError, torch.cuda.OutOfMemoryError):
    """Memory ran out with nothing smaller to go on with; torch's error too, after which others make room."""


def free_memory(device: torch.device) -> int | None:
    """Return how many bytes a device could still give, None where nobody says.

    What PyTorch holds but does not use counts as free. For the CPU it is what the system could give without
    swapping, or less if a control group allows less.
    """
    if device.type in ("cuda", "xpu"):
        module = getattr(torch, device.type)
        free, _ = module.mem_get_info(device)
        return free + module.memory_reserved(device) - module.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return _free_host_memory() if device.type == "cpu" else None


def _free_host_memory(proc: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Read Linux's estimate of what is available, and the limit of the control group."""
    available = _number(proc, "MemAvailable:")
    if available is None:
        return None
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    cached = _number(group / "memory.stat", "inactive_file") or 0
    free = available * 1024
    return free if limit is None or used is None else max(0, min(free, limit - used + cached))


def _number(file: Path, name: str | None = None) -> int | None:
    """Return the number of a file, or of its line that begins with `name`; None if there is none."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return None
    values = [words[-1 if name is None else 1] for words in lines if words and name in (None, words[0])]
    return int(values[0]) if values and values[0].isdigit() else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what a library says was its cause, is that memory ran out, on whatever device."""
    # torch has an exception of its own for accelerators, and none for the processor's memory.
    words = str(error).lower()
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(known in words for known in WORDS)
    ):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def in_words(error: Exception) -> Exception:
    """Return a sentence in place of an allocator's words; any other error is returned as it is."""
    if isinstance(error, OSEDiffError) or not is_out_of_memory(error):
        return error
    return NotEnoughMemoryError(f"there is not enough memory: {REMEDY}")


@contextmanager
def memory_in_words() -> Iterator[None]:
    """Raise NotEnoughMemoryError in place of an allocator's error; also a decorator."""
    try:
        yield
    except Exception as error:
        said = in_words(error)
        if said is error:
            raise
        raise said from error


def release() -> None:
    """Hand back to the driver what PyTorch holds but does not use, so that another cut of the work fits."""
    gc.collect()
    for module in (torch.cuda, getattr(torch, "xpu", None), torch.mps):
        if module is not None and module.is_available():
            module.empty_cache()


def first_that_fits(
    attempts: Sequence[Attempt], run: Callable[..., Result], *pictures: Tensor, before: int = 0
) -> Result:
    """Return what `run(attempt)` makes of the first attempt for which memory suffices.

    After an out-of-memory error, and after no other, something smaller is tried, with one line in the log
    that names both: fewer of the pictures at once, and with one of them the next attempt. Raises
    NotEnoughMemoryError after the last. pictures: what `run(attempt, *pictures, before=before)` takes, (n,
    ...) each, to make (n, ...) of it. before: how many went before these.
    """
    count = len(pictures[0]) if pictures else 1
    for i, attempt in enumerate(attempts):
        try:
            return run(attempt, *pictures, before=before) if pictures else run(attempt)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Out of the handler, for the error holds the frames, and with them the memory, of what failed.
        if count > 1:
            fewer = -(-count // 2)
            logger.warning("memory ran out with %d pictures at once; going on with %d", count, fewer)
            release()
            parts = enumerate(zip(*(x.split(fewer) for x in pictures), strict=True))
            rest, ahead = attempts[i:], before
            done = [first_that_fits(rest, run, *part, before=ahead + n * fewer) for n, part in parts]
            return cast(Any, torch.cat(cast(Any, done)))
        if i + 1 < len(attempts):
            logger.warning("memory ran out with %s; going on with %s", attempt, attempts[i + 1])
        release()
    tried = ", then ".join(str(attempt) for attempt in attempts)
    raise NotEnoughMemoryError(f"there is not enough memory; tried: {tried}. Remedy: {REMEDY}")


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on `device`, without waiting for what a card was given before.

    From ordinary memory the driver takes a copy before it goes on, so `tensor` may be changed right away.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def gigabytes(size: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{size / 2**30:.1f} GiB"

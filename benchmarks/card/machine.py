"""A device that is measured: waiting for it, what a work takes on it, and less memory on purpose."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.plan import status
from benchmarks.speed import wait
from osediff_core.device.memory import release

Result = TypeVar("Result")
FORGET = Path("/proc/self/clear_refs")  # Linux: what is written to it sets the high-water mark back


class Machine:
    """A card, or a processor in its place, which has no graphs and whose memory nothing caps."""

    def __init__(self, device: torch.device) -> None:
        self.is_card = device.type == "cuda"
        if (
            self.is_card
        ):  # by its number, which caps ask for; and streams and graphs know the current one alone
            device = torch.device(
                "cuda", torch.cuda.current_device() if device.index is None else device.index
            )
            torch.cuda.set_device(device)
        self.device = device

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        wait(str(self.device))

    def release(self) -> None:
        """Give back what is not used any more of a card."""
        if self.is_card:
            release()

    def peak(self, work: Callable[[], Result]) -> tuple[Result, float | None]:
        """Return what a work gives, and the GiB that it took at its most beyond what there was before.

        None where nobody says. Of a card it is what PyTorch allocated; of a processor, what Linux notes.
        """
        self.release()
        if self.is_card:
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            result = work()
            self.wait()
            return result, (torch.cuda.max_memory_allocated(self.device) - before) / 2**30
        if not FORGET.exists():
            return work(), None
        before = status("VmRSS")
        FORGET.write_text("5", encoding="ascii")
        result = work()
        return result, max(0, status("VmHWM") - before) / 2**30

    def seconds(self, work: Callable[[], object], times: int) -> float:
        """Return the seconds of a work's fastest run of several."""
        found = []
        for _ in range(times):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - start)
        return min(found)

    @contextmanager
    def capped(self, gib: float) -> Iterator[None]:
        """Let PyTorch have no more than so many GiB of the card inside; what it has counts."""
        self.release()
        total = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / total), self.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)
            self.release()

    @contextmanager
    def tf32(self, on: bool) -> Iterator[None]:
        """Let a card multiply float32 in TensorFloat-32 inside, or not; by default it may in convolutions."""
        convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = convolutions
            torch.backends.cuda.matmul.allow_tf32 = products

    def about(self) -> dict[str, str]:
        """Return what the figures are of."""
        said = {"device": platform.processor() or platform.machine(), "torch": torch.__version__}
        if self.is_card:
            found = torch.cuda.get_device_properties(self.device)
            said |= {"device": found.name, "memory": f"{found.total_memory / 2**30:.1f} GiB"}
            said |= {"CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}
        cores = f"{os.cpu_count()}, of which PyTorch uses {torch.get_num_threads()}"
        return said | {"processor cores": cores, "Python": platform.python_version()}

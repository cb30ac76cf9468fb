"""Keep a model's parts in the host's memory and move each to the device only while it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .errors import OSEDiffError

OFFLOADS = ("none", "parts")


def check_offload(offload: str) -> None:
    """Raise OSEDiffError unless `offload` is one of the choices."""
    if offload not in OFFLOADS:
        raise OSEDiffError(f"the offloading is one of {', '.join(OFFLOADS)}, got {offload!r}")


@contextmanager
def resident(device: torch.device | None, *modules: nn.Module | None) -> Iterator[torch.device]:
    """Have `modules` on `device` inside, and yield where they are; None: they stay, wherever that is.

    Nothing is copied back: weights do not change at inference, so those in the host's memory are kept and
    put in place again, whatever happens inside.
    """
    there = [module for module in modules if module is not None]
    if device is None:
        yield next(there[0].parameters()).device
        return
    tensors = [t for module in there for t in (*module.parameters(), *module.buffers())]
    at_home = [t.data for t in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(device)
        yield device
    finally:
        for tensor, home in zip(tensors, at_home, strict=True):
            tensor.data = home

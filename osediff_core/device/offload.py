"""Keep a model's parts in the host's memory and move each to the device only while it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..choices import OFFLOADS
from ..errors import OSEDiffError


def check_offload(offload: str) -> None:
    """Raise OSEDiffError unless `offload` is one of the choices."""
    if offload not in OFFLOADS:
        raise OSEDiffError(f"the offloading is one of {', '.join(OFFLOADS)}, got {offload!r}")


@contextmanager
def resident(device: torch.device, *modules: nn.Module | None) -> Iterator[torch.device]:
    """Have `modules` on `device` inside, and yield it.

    Nothing is copied back: weights do not change at inference, so those in the host's memory are kept and
    put in place again, whatever happens inside.
    """
    there = [module for module in modules if module is not None]
    stores: list[dict[str, Any]] = [
        store for module in there for m in module.modules() for store in (m._parameters, m._buffers)
    ]
    at_home = [dict(store) for store in stores]
    try:
        for store in stores:
            store.update({name: _moved(tensor, device) for name, tensor in store.items()})
        yield device
    finally:
        for store, home in zip(stores, at_home, strict=True):
            store.update(home)


def _moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    """Return a parameter or a buffer on `device`."""
    if tensor is None or not isinstance(tensor, nn.Parameter):
        return None if tensor is None else tensor.to(device)
    return nn.Parameter(tensor.to(device), requires_grad=False)

"""A pretended card that counts what is asked of it: the meta device, which knows shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CARD = torch.device("meta")

ASKING = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
"""PyTorch's marks of operations whose result, or its size, the host must ask the card for."""


@contextmanager
def uploads_let_go(*modules: ModuleType) -> Iterator[None]:
    """Let modules upload to the pretended card as they do to a real one."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(mock.patch.object(module, "upload", _let_go))
        yield


def _let_go(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)


class Waits(TorchDispatchMode):
    """Notes what makes the host wait for the card: values that are read, and copies that are not let go.

    What comes from the card is ones. `operations` counts what is dispatched, views included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.operations = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Sequence[type],
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        name, kwargs = func.overloadpacket.__name__, dict(kwargs or {})
        self.operations += 1
        if name == "_local_scalar_dense" and args[0].device == CARD:
            self.seen.append("read")
            return True if args[0].dtype == torch.bool else 1.0
        if ASKING & set(func.tags) and args[0].device == CARD and not _by_numbers(name, args):
            self.seen.append("read")
            return func(*(_on_the_host(a) for a in args), **kwargs).to(CARD)
        if name == "_to_copy" and (to := kwargs.get("device", args[0].device)) != args[0].device:
            if not (to == CARD and kwargs.get("non_blocking")):
                self.seen.append(f"to {'card' if to == CARD else 'host'}")
            return torch.ones_like(args[0], device=to, dtype=kwargs.get("dtype", args[0].dtype))
        if name == "copy_" and args[0].device != args[1].device:
            self.seen.append(f"to {'card' if args[0].device == CARD else 'host'}")
            return args[0] if args[0].device == CARD else args[0].fill_(1)
        return func(*args, **kwargs)


def _by_numbers(name: str, args: tuple) -> bool:
    """Whether places are given as numbers, not as a mask whose true values must be counted."""
    return name == "index" and all(a is None or a.dtype not in (torch.bool, torch.uint8) for a in args[1])


def _on_the_host(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_on_the_host(part) for part in value]
    return torch.ones_like(value, device="cpu") if isinstance(value, Tensor) else value

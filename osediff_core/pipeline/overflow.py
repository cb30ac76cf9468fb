"""Half precision can overflow: what is not finite is computed once more in float32, or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..base.precision import convert
from ..errors import OSEDiffError

logger = logging.getLogger(__name__)

Check = Callable[[str, nn.Module, Callable[[], Tensor]], Tensor]
"""What is done about a part's result that may not be finite: `finite`, or an `AskLater`."""


def finite(part: str, module: nn.Module, compute: Callable[[], Tensor]) -> Tensor:
    """Return what `compute` gives, once more in float32 if it is not finite, or raise OSEDiffError."""
    out = compute()
    if out.isfinite().all():
        return out
    dtype = next(module.parameters()).dtype
    name = str(dtype).removeprefix("torch.")
    if dtype != torch.float32:
        logger.warning("the %s is not finite in %s; computing it once more in float32", part, name)
        _convert(module, torch.float32)
        try:
            out = compute()
        finally:
            _convert(module, dtype)
        if out.isfinite().all():
            return out
        name += " nor in float32"
    raise OSEDiffError(f"the {part} is not finite in {name}: check the weights, or try another dtype or base")


class AskLater:
    """Notes on the device whether what was computed is finite, so that it is asked once in the end.

    A question to a device waits until it has done what it was given, and leaves it idle meanwhile.
    """

    def __init__(self) -> None:
        """Begin with nothing noted. worthwhile: until something was not finite, which may come again."""
        self._notes: list[Tensor] = []
        self.worthwhile = True

    def __call__(self, part: str, module: nn.Module, compute: Callable[[], Tensor]) -> Tensor:
        """Return what `compute` gives, whatever it is."""
        out = compute()
        self._notes.append(out.isfinite().all())
        return out

    def all_finite(self) -> Tensor:
        """Return whether all of it was, a boolean () on the device; notes begin anew."""
        answer = torch.stack(self._notes).all()
        self._notes.clear()
        return answer


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    # Made in inference mode, weights could never be trained again.
    with torch.inference_mode(False):
        convert(module, dtype)

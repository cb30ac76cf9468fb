"""The surroundings of a restoration: memory, parts on their device, progress, numbers that are not finite."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from ..base.precision import convert
from ..device.memory import free_memory
from ..device.offload import resident
from ..errors import OSEDiffError
from ..model import OSEDiff, Part

Progress = Callable[[int, int], None]

logger = logging.getLogger(__name__)


class Runtime:
    """What stands around the model outside ComfyUI.

    progress(done, total) is called after every step: a stage of the VAE, a tile of the UNet; and again after
    every piece of a stage that runs in pieces. It may raise to cancel.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.asks_late = True  # about numbers that are not finite; no more once there were some
        self.done, self.total = 0, 0  # steps
        self._progress, self._begun, self._end = progress, 0, 0
        self._notes: list[Tensor] | None = None

    # ---- memory ------------------------------------------------------------------------------------

    def free_memory(self, device: torch.device) -> int | None:
        """Return how many bytes a device could give, None where nobody says."""
        return free_memory(device)

    def device(self, model: OSEDiff) -> torch.device:
        """Return where the model computes, be it there or not yet."""
        return model.device

    def free_beside(self, model: OSEDiff, part: Part) -> int | None:
        """Return how many bytes the work of a part may take on the model's device, once the part is there."""
        free = self.free_memory(model.device)
        return free if free is None or model.offload_to is None else free - weight_bytes(part)

    def load(self, model: OSEDiff, part: Part, needed: int) -> AbstractContextManager[torch.device]:
        """Return a context in which a part of the model is ready on a device, which it gives.

        needed: bytes of its work.
        """
        if model.offload_to is not None:
            return resident(model.offload_to, *part)
        return nullcontext(next(p.device for m in part if m is not None for p in m.parameters()))

    # ---- progress and cancel -----------------------------------------------------------------------

    def show_plan(self, plan: object) -> None:
        """Tell what will be done, which str(plan) says in a sentence: to nobody here."""

    def expect(self, steps: int) -> None:
        """Say that so many of the steps come now; what follows them begins where they end."""
        self._begun, self._end = self.done, self.done + steps

    def on_step(self, done: int, before: int = 0, each: int = 1) -> None:
        """Report that so many of the expected steps are done; raises what `progress` raises to cancel.

        before: steps that went before those. each: how many pictures take each of them at once.
        """
        self.done = min(self._begun + before + done * each, self._end)
        if self._progress is not None:
            self._progress(self.done, self.total)

    # ---- numbers that are not finite ---------------------------------------------------------------

    @contextmanager
    def finite_checks(self, late: bool) -> Iterator[list[Tensor]]:
        """Inside, let `finite` only note on the device whether all was finite, if `late`; yield the notes.

        A question to a device waits until it has done what it was given, and leaves it idle meanwhile.
        """
        notes: list[Tensor] = []
        self._notes = notes if late else None
        try:
            yield notes
        finally:
            self._notes = None

    def in_float32(self, module: nn.Module) -> AbstractContextManager[object]:
        """Return a context in which a part of the model computes in float32."""
        return converted(module, torch.float32)

    def finite(
        self, name: str, module: nn.Module, compute: Callable[..., Tensor], *pictures: Tensor
    ) -> Tensor:
        """Return what `compute(*pictures)` gives, once more in float32 if not finite, or raise OSEDiffError.

        pictures: what is computed from, (n, ...) each, to give (n, ...); of several only those are computed
        once more whose own numbers are not finite.
        """
        out = compute(*pictures)
        if self._notes is not None:
            self._notes.append(out.isfinite().all())
            return out
        if out.isfinite().all():
            return out
        if not pictures or len(out) == 1:
            return self._in_float32(name, module, partial(compute, *pictures))
        self._begun = self._end - (self._end - self._begun) // len(out)  # once more the steps of one
        out = out.float()  # in its layout, which the last bits of what comes next hang on
        for i, its in enumerate(zip(*(x.split(1) for x in pictures), strict=True)):
            if not out[i].isfinite().all():
                out[i : i + 1] = self._in_float32(name, module, partial(compute, *its))
        return out

    def _in_float32(self, name: str, module: nn.Module, compute: Callable[[], Tensor]) -> Tensor:
        """Return what `compute` gives in float32, or raise OSEDiffError if that is not finite either."""
        dtype = next(module.parameters()).dtype
        kind = str(dtype).removeprefix("torch.")
        if dtype != torch.float32:
            logger.warning("the %s is not finite in %s; computing it once more in float32", name, kind)
            with self.in_float32(module):
                out = compute()
            if out.isfinite().all():
                return out
            kind += " nor in float32"
        raise OSEDiffError(
            f"the {name} is not finite in {kind}: check the weights, or try another dtype or base"
        )


def weight_bytes(modules: Sequence[nn.Module | None]) -> int:
    """Return how many bytes the weights of modules take."""
    there = [module for module in modules if module is not None]
    return sum(p.numel() * p.element_size() for module in there for p in module.parameters())


@contextmanager
def converted(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Have the weights of a module in another number format inside, and rounded to their own after it."""
    own = next(module.parameters()).dtype
    # Made in inference mode, weights could never be trained again.
    with torch.inference_mode(False):
        convert(module, dtype)
    try:
        yield
    finally:
        with torch.inference_mode(False):
            convert(module, own)

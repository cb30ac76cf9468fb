"""The surroundings of a restoration inside ComfyUI: its memory, its progress bar, its Cancel button."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from comfy import model_management
from torch import nn

from ..osediff_core.model import OSEDiff, Part
from ..osediff_core.network.unet import UNet
from ..osediff_core.network.vae import VAE
from ..osediff_core.pipeline.runtime import Runtime
from .managed import Managed, ManagedModel, in_float32
from .progress import cancelled_between_layers, progress_bar, say


def free_beside(owner: Managed) -> int:
    """Return the bytes for its work once it is on its device and other models have made way."""
    free = int(model_management.get_free_memory(owner.device))
    if owner.device.type == "cpu":  # where models make way to where they are
        return free
    there = [each for each in model_management.loaded_models() if each is not None]  # None: it is gone
    loaded = [each for each in there if each.load_device == owner.device]
    return free + sum(each.loaded_size() for each in loaded) - owner.size


class ComfyRuntime(Runtime):
    """Asks ComfyUI for memory and room, and moves the bar of the running node."""

    def __init__(self, model: ManagedModel, node_id: str | None = None) -> None:
        """node_id: the node on which the plan is shown."""
        super().__init__(progress_bar())
        self._model, self._node_id = model, node_id

    def free_memory(self, device: torch.device) -> int:
        """Return the bytes that a device has now."""
        return int(model_management.get_free_memory(device))

    def device(self, model: OSEDiff) -> torch.device:
        """Where ComfyUI moves the UNet to."""
        return self._model.owner((model.unet,)).device

    def free_beside(self, model: OSEDiff, part: Part) -> int:
        """Return the bytes for a part's work once it is on its device and other models have made way."""
        return free_beside(self._model.owner(part))

    @contextmanager
    def load(self, model: OSEDiff, part: Part, needed: int) -> Iterator[torch.device]:
        """Have a part ready on its device, with room for its work, until ComfyUI needs the memory."""
        owner = self._model.owner(part)
        owner.move_in(needed)
        # A call of the UNet takes a processor ten seconds; on a card, looking that often would cost more.
        with cancelled_between_layers(part if owner.device.type == "cpu" else ()):
            yield owner.device

    def in_float32(self, module: nn.Module) -> AbstractContextManager[object]:
        """Let ComfyUI's layers cast their weights, which are where ComfyUI has put them, as they run."""
        return in_float32(module) if isinstance(module, UNet | VAE) else super().in_float32(module)

    def show_plan(self, plan: object) -> None:
        """Show what will be done on the node."""
        say(self._node_id, str(plan))

"""Networks under ComfyUI's memory management: what travels on an OSEDIFF_MODEL wire, and its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

if TYPE_CHECKING:
    from ..osediff_core import OSEDiff

ModelType = io.Custom("OSEDIFF_MODEL")

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
# An estimate: values alive at once per image pixel in the last level of a VAE, per channel of that level.
VALUES_PER_CHANNEL = 16


class _Holder(torch.nn.Module):
    """A plain module around another: ComfyUI's patcher writes `device`, which is read-only on some."""

    def __init__(self, held: torch.nn.Module) -> None:
        super().__init__()
        self.held = held
        self.device = model_management.unet_offload_device()


class Managed:
    """A network with the patcher through which ComfyUI moves it to the device and away again."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._patcher = ModelPatcher(
            _Holder(network),
            load_device=model_management.get_torch_device(),
            offload_device=model_management.unet_offload_device(),
        )

    def move_in(self, memory: int) -> None:
        """Bring the network to ComfyUI's device, with room made for so many bytes of its work."""
        model_management.load_models_gpu([self._patcher], memory_required=memory, force_full_load=True)
        # Under --novram ComfyUI leaves modules without its own operations where they were; OSEDiff's run
        # on one device only. Where everything was moved already this does nothing.
        self._patcher.model.to(self._patcher.load_device)


class ManagedModel(Managed):
    """OSEDiff, managed."""

    def __init__(self, osediff: OSEDiff) -> None:
        super().__init__(osediff)
        self.idle = osediff  # wherever it is now, for reading its configuration only

    def load(self, pixels: int) -> OSEDiff:
        """The model on ComfyUI's device, with room made for working on an image of so many pixels."""
        self.move_in(pixels * self._bytes_per_pixel())
        return self.idle

    def _bytes_per_pixel(self) -> int:
        widths = self.idle.vae.config.block_out_channels
        return VALUES_PER_CHANNEL * int(widths[0]) * self.idle.dtype.itemsize


def choose_dtype(name: str) -> torch.dtype:
    """The dtype of that name; "auto" is ComfyUI's own choice for the device and its command line flags."""
    if name != "auto":
        return DTYPES[name]
    chosen = model_management.unet_dtype(
        device=model_management.get_torch_device(), supported_dtypes=list(DTYPES.values())
    )
    return chosen if chosen in DTYPES.values() else torch.float32  # fp8 flags mean nothing to OSEDiff

"""Networks under ComfyUI's memory management: what travels on an OSEDIFF_MODEL wire, and its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..osediff_core.choices import DTYPES
from ..osediff_core.errors import OSEDiffError

if TYPE_CHECKING:
    from ..osediff_core import OSEDiff
    from ..osediff_core.model import Part

ModelType = io.Custom("OSEDIFF_MODEL")

TYPES = {name: getattr(torch, name) for name in DTYPES}


class _Holder(torch.nn.Module):
    """A plain module around another: ComfyUI's patcher writes `device`, which is read-only on some."""

    def __init__(self, held: torch.nn.Module, device: torch.device) -> None:
        super().__init__()
        self.held = held
        self.device = device


class Managed:
    """A network with the patcher through which ComfyUI moves it to the device and away again."""

    def __init__(self, network: torch.nn.Module, load: torch.device, offload: torch.device) -> None:
        self._patcher = ModelPatcher(_Holder(network, offload), load_device=load, offload_device=offload)
        self.device = load

    @property
    def size(self) -> int:
        """The bytes of its weights."""
        return self._patcher.model_size()

    def move_in(self, memory: int) -> None:
        """Bring the network to its device, with room made for so many bytes of its work."""
        model_management.load_models_gpu([self._patcher], memory_required=memory, force_full_load=True)
        # Under --novram ComfyUI leaves modules without its own operations where they were; these run on one
        # device only. Where everything was moved already this does nothing.
        self._patcher.model.to(self._patcher.load_device)


class ManagedModel:
    """OSEDiff: text encoder, VAE and UNet managed each on its own, so that the idle ones can make way."""

    def __init__(self, osediff: OSEDiff) -> None:
        self.idle = osediff  # wherever it is now
        text = model_management.text_encoder_device(), model_management.text_encoder_offload_device()
        vae = model_management.vae_device(), model_management.vae_offload_device()
        unet = model_management.get_torch_device(), model_management.unet_offload_device()
        self._text = Managed(osediff.text_encoder, *text)
        self._vae = Managed(osediff.vae, *vae)
        self._unet = Managed(osediff.unet, *unet)

    def owner(self, part: Part) -> Managed:
        """What manages a part of the model: both halves of the VAE come and go together."""
        if self.idle.text_encoder in part:
            return self._text
        return self._unet if self.idle.unet in part else self._vae


def choose_dtype(name: str) -> torch.dtype:
    """The dtype of that name; "auto" is ComfyUI's own choice for the device and its command line flags."""
    if name in TYPES:
        return TYPES[name]
    if name != "auto":
        raise OSEDiffError(f"the dtype is one of auto, {', '.join(TYPES)}, got {name!r}")
    chosen = model_management.unet_dtype(
        device=model_management.get_torch_device(), supported_dtypes=list(TYPES.values())
    )
    return chosen if chosen in TYPES.values() else torch.float32  # fp8 flags mean nothing to OSEDiff

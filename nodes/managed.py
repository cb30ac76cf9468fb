"""Networks under ComfyUI's memory management: what travels on an OSEDIFF_MODEL wire, and its kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from comfy import model_management, model_patcher, ops
from comfy_api.latest import io

from ..osediff_core.choices import DTYPES
from ..osediff_core.errors import OSEDiffError
from ..osediff_core.network.unet import UNet
from ..osediff_core.network.vae import VAE

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..osediff_core import OSEDiff
    from ..osediff_core.model import Part

ModelType = io.Custom("OSEDIFF_MODEL")

Network = TypeVar("Network", UNet, VAE)
TYPES = {name: getattr(torch, name) for name in DTYPES}


class Managed:
    """A network with the patcher through which ComfyUI moves it to the device and away again."""

    def __init__(self, patcher: ModelPatcher) -> None:
        self.patcher = patcher  # ComfyUI looks for what travels on wires under this name
        self.device = patcher.load_device

    @property
    def size(self) -> int:
        """The bytes of its weights."""
        return self.patcher.model_size()

    def move_in(self, memory: int) -> None:
        """Have the network ready on its device, with room made for so many bytes of its work.

        What does not fit beside that work stays where it is, and comes layer by layer as it is needed.
        """
        model_management.load_models_gpu([self.patcher], memory_required=memory)


class ManagedWhole(Managed):
    """A network of another library, whose layers cannot bring their weights when they run."""

    def __init__(self, network: torch.nn.Module, load: torch.device, offload: torch.device) -> None:
        held = _Holder(network, offload)
        super().__init__(model_patcher.ModelPatcher(held, load_device=load, offload_device=offload))

    def move_in(self, memory: int) -> None:
        """Bring all of the network to its device, with room made for so many bytes of its work."""
        model_management.load_models_gpu([self.patcher], memory_required=memory, force_full_load=True)
        # Under --novram ComfyUI leaves modules without its own operations where they were; these run on one
        # device only. Where everything was moved already this does nothing.
        self.patcher.model.to(self.patcher.load_device)


class _Holder(torch.nn.Module):
    """A plain module around another: ComfyUI's patcher writes `device`, which is read-only on some."""

    def __init__(self, held: torch.nn.Module, device: torch.device) -> None:
        super().__init__()
        self.held = held
        self.device = device


def manage(network: UNet | VAE, load: torch.device, offload: torch.device) -> Managed:
    """Put a network, as `on_comfy_layers` gives it, under the patcher that ComfyUI's own models have."""
    kind = getattr(model_patcher, "CoreModelPatcher", model_patcher.ModelPatcher)  # the first is of 2026
    return Managed(kind(network, load_device=load, offload_device=offload))


def on_comfy_layers(network: Network, device: torch.device) -> Network:
    """Return the same network of ComfyUI's own layers, with the same tensors for weights.

    They bring their weights to the device, and cast them, when they run: so ComfyUI may move in as much of
    the network as there is room for. device: where it will run; where that cannot compute in the weights'
    number format, the layers compute in one that it can.
    """
    dtype = network.dtype
    compute = model_management.unet_manual_cast(dtype, device, list(TYPES.values()))
    layers = ops.pick_operations(dtype, compute)
    kind: Any = type(network)
    with torch.device("meta"):
        rebuilt = kind(network.config, layers).eval().requires_grad_(False)
    rebuilt.load_state_dict(network.state_dict(), assign=True)
    rebuilt.computes_in = compute
    return rebuilt


@contextmanager
def in_float32(network: UNet | VAE) -> Iterator[None]:
    """Have a network of ComfyUI's layers compute in float32 inside; its weights stay as they are."""
    layers: list[Any] = [layer for layer in network.modules() if hasattr(layer, "comfy_cast_weights")]
    own, casting = network.computes_in, [layer.comfy_cast_weights for layer in layers]
    network.computes_in = torch.float32
    for layer in layers:
        layer.comfy_cast_weights = True
    try:
        yield
    finally:
        network.computes_in = own
        for layer, was in zip(layers, casting, strict=True):
            layer.comfy_cast_weights = was


class ManagedModel:
    """OSEDiff: text encoder, VAE and UNet managed each on its own, so that the idle ones can make way."""

    def __init__(self, osediff: OSEDiff) -> None:
        self.idle = osediff  # wherever it is now
        text = model_management.text_encoder_device(), model_management.text_encoder_offload_device()
        vae = model_management.vae_device(), model_management.vae_offload_device()
        unet = model_management.get_torch_device(), model_management.unet_offload_device()
        osediff.vae, osediff.unet = (
            on_comfy_layers(osediff.vae, vae[0]),
            on_comfy_layers(osediff.unet, unet[0]),
        )
        self._text = ManagedWhole(osediff.text_encoder, *text)
        self._vae, self._unet = manage(osediff.vae, *vae), manage(osediff.unet, *unet)

    def get_models(self) -> list[ModelPatcher]:
        """Return what ComfyUI asks of what travels on wires: the patchers that are in use while it does."""
        return [managed.patcher for managed in (self._text, self._vae, self._unet)]

    def owner(self, part: Part) -> Managed:
        """Return what manages a part of the model: both halves of the VAE come and go together."""
        if self.idle.text_encoder in part:
            return self._text
        return self._unet if self.idle.unet in part else self._vae


def choose_dtype(name: str) -> torch.dtype:
    """Return the dtype of that name.

    "auto" is ComfyUI's own choice for the device and its command line flags.
    """
    if name in TYPES:
        return TYPES[name]
    if name != "auto":
        raise OSEDiffError(f"the dtype is one of auto, {', '.join(TYPES)}, got {name!r}")
    chosen = model_management.unet_dtype(
        device=model_management.get_torch_device(), supported_dtypes=list(TYPES.values())
    )
    return chosen if chosen in TYPES.values() else torch.float32  # fp8 flags mean nothing to OSEDiff

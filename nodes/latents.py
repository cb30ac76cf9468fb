"""The border between ComfyUI's LATENT and CONDITIONING and the core's tensors."""

from __future__ import annotations

from typing import Any

from comfy import model_management
from torch import Tensor

from ..osediff_core import OSEDiff
from ..osediff_core.errors import OSEDiffError
from ..osediff_core.pipeline.run import encode_prompt
from .managed import ManagedModel
from .runtime import ComfyRuntime

SIZE_KEY = "osediff_size"  # (height, width) of the image without padding


def pack_latent(model: OSEDiff, z: Tensor) -> Tensor:
    """Return a LATENT's samples, (B, C, h, w) float32 in ComfyUI's unscaled units, of scaled latents."""
    return (z.float() / model.scaling_factor).to(model_management.intermediate_device())


def unpack_latent(model: OSEDiff, latent: dict[str, Any]) -> Tensor:
    """Scaled latents (B, C, h, w), float32, from a LATENT; raises OSEDiffError for another model's."""
    samples = latent["samples"]
    if samples.ndim != 4 or samples.shape[1] != model.latent_channels:
        raise OSEDiffError(
            f"expected a LATENT (batch, {model.latent_channels}, height, width) for this model, got "
            f"{tuple(samples.shape)}: encode the image with OSEDiff LQ Encode"
        )
    return samples.float() * model.scaling_factor


def true_size(latent: dict[str, Any], decoded: tuple[int, int], reduction: int) -> tuple[int, int] | None:
    """Return the size that the LATENT says its image has, or None.

    A latent that was cut or resized on its way still carries the old size: only a size that pads to the
    decoded one is believed.
    """
    size = latent.get(SIZE_KEY)
    return tuple(size) if size is not None and pads_to(size, decoded, reduction) else None


def pads_to(size: tuple[int, int], decoded: tuple[int, int], reduction: int) -> bool:
    """Whether an image of that (height, width), padded to the VAE's reduction, has the decoded size."""
    return all(-(-side // reduction) * reduction == full for side, full in zip(size, decoded, strict=True))


def prompt_embeds(model: ManagedModel, conditioning: list[Any] | None) -> Tensor:
    """(B, L, D) from a CONDITIONING or the empty prompt; raises OSEDiffError where it does not fit."""
    if conditioning is None:
        return encode_prompt(model.idle, [""], ComfyRuntime(model))
    if len(conditioning) != 1:
        raise OSEDiffError(
            f"expected one prompt, got a CONDITIONING of {len(conditioning)}: OSEDiff takes one step with "
            "one prompt, so join the words and not the conditionings"
        )
    embeds = conditioning[0][0]
    width = model.idle.unet.config.cross_attention_dim
    if embeds.ndim != 3 or embeds.shape[-1] != width:
        raise OSEDiffError(
            f"expected a CONDITIONING of width {width} for this model, got {tuple(embeds.shape)}: encode the "
            "prompt with OSEDiff Text Encode, or with the text encoder of the same base"
        )
    return embeds

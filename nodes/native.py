"""OSEDiff on the models of ComfyUI's own loaders: the checkpoint as patches, and the one step as a sampling.

ComfyUI's names for what is patched are those of the exports (`osediff_core.tools.exports`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import comfy.lora
import torch
from comfy import model_management
from torch import Tensor

from ..osediff_core.errors import OSEDiffError
from ..osediff_core.pipeline.plan import tile_and_overlap
from ..osediff_core.pipeline.unet_tiles import UNetPlan, predict_in_tiles
from ..osediff_core.tools.exports import unet_lora, vae_patch
from ..osediff_core.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

CONV_IN = "diffusion_model.input_blocks.0.0."
LATENT_CHANNELS = 4
TEXT_WIDTH = 1024  # what the UNet of Stable Diffusion 2 attends to
OVERLAP = 32  # of the UNet's tiles, as published

Shapes = Mapping[str, torch.Size]
ApplyModel = Callable[..., Tensor]


def check_model(model: ModelPatcher) -> None:
    """Raise OSEDiffError unless a MODEL may be Stable Diffusion 2.1-base, without OSEDiff on it."""
    kind = model.model.model_type.name
    width = model.model.model_config.unet_config.get("context_dim")
    if width != TEXT_WIDTH:
        raise OSEDiffError(
            f"OSEDiff needs a MODEL of Stable Diffusion 2.1-base, whose text has width {TEXT_WIDTH}, got one "
            f"of another family (width {width}): load v2-1_512-ema-pruned"
        )
    if kind != "EPS":
        raise OSEDiffError(
            f"OSEDiff needs a MODEL that predicts noise (EPS), got {kind}: load Stable Diffusion 2.1-base, "
            "for 512 px (v2-1_512-ema-pruned), and not the one for 768 px"
        )
    if isinstance(model.get_model_object("model_sampling"), OneStep):
        raise OSEDiffError("this MODEL has OSEDiff on it already: connect the one from the loader")


def check_vae(vae: VAE) -> None:
    """Raise OSEDiffError for a VAE whose latents the UNet does not take."""
    if vae.latent_channels != LATENT_CHANNELS:
        raise OSEDiffError(
            f"OSEDiff needs the VAE of Stable Diffusion 2.1-base, of {LATENT_CHANNELS} channels, got one of "
            f"{vae.latent_channels}: connect that of the same checkpoint"
        )


def patched_model(model: ModelPatcher, checkpoint: Checkpoint) -> ModelPatcher:
    """Return a clone of a MODEL with the UNet's part of a checkpoint as patches.

    OSEDiffError if it does not fit.
    """
    # The values as they were loaded, without patches of this or other clones that are in place now.
    loaded = {key: kept[0][0] for key, kept in model.get_key_patches(CONV_IN).items()}
    conv_in = {key.replace(CONV_IN, "conv_in."): weight.cpu() for key, weight in loaded.items()}
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    lora = unet_lora(checkpoint, conv_in)
    return _with_patches(model, lora, names, "MODEL")


def patched_vae(vae: VAE, checkpoint: Checkpoint) -> VAE:
    """Return a copy of a VAE with the encoder's part of a checkpoint as patches.

    OSEDiffError if it does not fit.
    """
    lora = vae_patch(checkpoint)
    patched = copy.copy(vae)
    patched.patcher = _with_patches(
        vae.patcher, lora, {name: f"{name}.weight" for name in _layers(lora)}, "VAE"
    )
    return patched


def _with_patches(
    patcher: ModelPatcher, lora: Mapping[str, Tensor], names: Mapping[str, str], what: str
) -> ModelPatcher:
    """Return a clone with a LoRA; names: ComfyUI's key of the weight of each layer that it may have."""
    shapes = {key: tensor.shape for key, tensor in patcher.model.state_dict().items()}
    layers = _layers(lora)
    misfits = [misfit for layer in layers if (misfit := _misfit(layer, lora, names, shapes))]
    if misfits:
        raise OSEDiffError(
            f"the checkpoint does not fit this {what} ({len(misfits)} of {len(layers)} layers, the first: "
            f"{misfits[0]}): it is for Stable Diffusion 2.1-base, so load v2-1_512-ema-pruned"
        )
    clone = patcher.clone()
    clone.add_patches(comfy.lora.load_lora(lora, names))
    return clone


def _layers(lora: Iterable[str]) -> list[str]:
    """Return the layers that a LoRA in kohya's names has low-rank pairs for."""
    return [key.removesuffix(".alpha") for key in lora if key.endswith(".alpha")]


def _misfit(layer: str, lora: Mapping[str, Tensor], names: Mapping[str, str], shapes: Shapes) -> str | None:
    """Return what is wrong with a layer: pairs may be matrices where ComfyUI has 1 x 1 convolutions."""
    weight = shapes.get(names.get(layer, ""))
    if weight is None:
        return f"there is no {layer}"
    down, up = lora[f"{layer}.lora_down.weight"], lora[f"{layer}.lora_up.weight"]
    theirs, ours = (weight[0], math.prod(weight[1:])), (up.shape[0], math.prod(down.shape[1:]))
    return None if theirs == ours else f"{layer} is {theirs[0]} x {theirs[1]}, expected {ours[0]} x {ours[1]}"


class OneStep:
    """Mixed into the sampling of a MODEL: the diffusion starts from the latent itself, and from no noise.

    ComfyUI's UNet gets x / sqrt(1 + sigma^2), and x0 = x - sigma eps. With x = z sqrt(1 + sigma^2) this is
    the paper's z_hq = (z - sqrt(1 - a) eps) / sqrt(a), for 1 / a = 1 + sigma^2. At the largest sigma, where
    schedules of one step begin, that is the step that OSEDiff was trained for.
    """

    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False
    ) -> Tensor:
        """Return what sampling starts from, (B, C, h, w), for a scaled latent (B, C, h, w)."""
        return latent_image * (1 + sigma.reshape(-1, *(1,) * (latent_image.ndim - 1)) ** 2).sqrt()


def start_from_the_latent(model: ModelPatcher) -> None:
    """Patch the sampling of a MODEL, a clone: an object of its own, on the buffers of the original."""
    sampling = copy.copy(model.get_model_object("model_sampling"))
    sampling.__class__ = type("OneStepSampling", (OneStep, type(sampling)), {})
    model.add_object_patch("model_sampling", sampling)


def run_in_tiles(model: ModelPatcher, tile: str | int) -> None:
    """Let a MODEL, a clone, see the latent in the core's tiles, whose noise is blended as the core's is.

    What is blended is x0 = x - sigma eps, in float32: it is linear in eps, and the weights add up to 1.
    """
    inner = model.model_options.get("model_function_wrapper")

    def wrapper(apply_model: ApplyModel, args: dict[str, Any]) -> Tensor:
        x: Tensor = args["input"]
        side, overlap = tile_and_overlap(tile, OVERLAP)
        plan = UNetPlan(x.shape[-2], x.shape[-1], side, overlap)
        if len(plan.boxes) > 1 and args["c"].get("control") is not None:
            raise OSEDiffError(
                "a ControlNet cannot follow the UNet's tiles: set tile to off, or leave it out"
            )

        def predict(part: Tensor) -> Tensor:
            if inner is not None:
                return inner(apply_model, {**args, "input": part})
            return apply_model(part, args["timestep"], **args["c"])

        return predict_in_tiles(predict, _stop_if_cancelled, plan, x)

    model.set_model_unet_function_wrapper(wrapper)


def _stop_if_cancelled(_done: int) -> None:
    model_management.throw_exception_if_processing_interrupted()

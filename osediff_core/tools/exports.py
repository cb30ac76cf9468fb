"""Checkpoints as files that stock ComfyUI knows: a LoRA for its LoraLoader, and patches for its VAE.

Tensors are named as ComfyUI names what it patches, low-rank pairs the kohya way: "<module>.lora_down.weight"
is A, "<module>.lora_up.weight" is B, and "<module>.alpha" divided by the rank is what their product is
multiplied by. docs/weights.md describes both files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..base import sd21
from ..base.original_names import renamed, reverse, vae_names
from ..errors import OSEDiffError
from ..lora import A, B, lora_delta
from ..weights.checkpoint import Checkpoint, save_tensors, tensor_writer
from ..weights.tensorfile import TensorFile
from ..whole_files import write_folder, write_together

UNET_FORMAT, VAE_FORMAT, EXPORT_VERSION = "osediff-comfyui-unet", "osediff-comfyui-vae", 1
CONV_IN_BIAS = "diffusion_model.input_blocks.0.0.bias.set_weight"
"""A bias is reached under ComfyUI's own name for it: its short names are those of weights."""

_VAE_NAMES = reverse(vae_names(sd21.VAE))


def write_unet_lora(
    path: str | Path, checkpoint: Checkpoint, conv_in: Mapping[str, Tensor] | None = None
) -> None:
    """Write the UNet's part for ComfyUI's LoraLoader; `conv_in` as in `unet_lora`."""
    save_tensors(path, unet_lora(checkpoint, conv_in), _metadata(checkpoint, UNET_FORMAT, "unet"))


def write_vae_patch(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write the VAE encoder's part, which no stock node of ComfyUI reads."""
    save_tensors(path, vae_patch(checkpoint), _metadata(checkpoint, VAE_FORMAT, "vae"))


def write_exports(
    unet: Path,
    vae: Path,
    checkpoint: Checkpoint,
    conv_in: Mapping[str, Tensor] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write both parts into one folder, which is made if absent: both files appear, or none.

    overwrite: replace a file that is there. What is there already, the same, is no obstacle: a run that was
    killed between the two leaves it. Raises OSEDiffError where a file may not be replaced, or not be written.
    """
    parts = {
        unet: (unet_lora(checkpoint, conv_in), _metadata(checkpoint, UNET_FORMAT, "unet")),
        vae: (vae_patch(checkpoint), _metadata(checkpoint, VAE_FORMAT, "vae")),
    }
    for path, (tensors, metadata) in parts.items():
        if path.exists() and not overwrite and not _holds(path, tensors, metadata):
            raise OSEDiffError(f"{path} is there already, another one: name another folder, or overwrite it")
    writers = {path: tensor_writer(*part) for path, part in parts.items()}
    if unet.parent.exists():
        write_together(writers)
    else:
        write_folder(unet.parent, lambda new: [write(new / path.name) for path, write in writers.items()])


def unet_lora(checkpoint: Checkpoint, conv_in: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the tensors of a LoRA that ComfyUI's LoraLoader matches without a rest.

    LoraLoader takes one kind of patch for each weight, so what conv_in has learnt, in full and in its LoRA,
    becomes one float32 patch: with the base's `conv_in` ("conv_in.weight" and "conv_in.bias") the difference
    from it, which follows LoraLoader's strength; without, the whole values, which replace the base's whatever
    the strength. Raises OSEDiffError if another layer was trained in full.
    """
    full = {key: t for key, t in checkpoint.unet.items() if not key.endswith((A, B))}
    if not full.keys() <= {"conv_in.weight", "conv_in.bias"}:
        raise OSEDiffError(
            "a LoRA for ComfyUI can hold conv_in in full and no other layer, got "
            f"{min(full.keys() - {'conv_in.weight', 'conv_in.bias'})}: keep this checkpoint as it is"
        )
    whole = {key.rsplit(".", 1)[0] for key in full if key.endswith(".weight")}
    tensors = {}
    for key in checkpoint.unet:
        module = key.removesuffix(A)
        if key.endswith(A) and module not in whole:
            name = "lora_unet_" + module.replace(".", "_")
            tensors |= _pair(name, checkpoint.unet, module, checkpoint.alpha_unet)
    return tensors | _conv_in(checkpoint, full, conv_in)


def vae_patch(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return low-rank pairs for the encoder of ComfyUI's VAE, under the names that it has there."""
    tensors = {}
    for key in checkpoint.vae:
        if key.endswith(A):
            module = key.removesuffix(A)
            tensors |= _pair(vae_name(module), checkpoint.vae, module, checkpoint.alpha_vae)
        elif not key.endswith(B):
            raise OSEDiffError(
                f"a VAE patch holds low-rank pairs only, got {key}: keep this checkpoint as it is"
            )
    return tensors


def vae_name(module: str) -> str:
    """Return what ComfyUI calls a module of diffusers' VAE encoder."""
    return next(iter(renamed({module: None}, _VAE_NAMES)), module)


def _holds(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
    """Whether a file is what would be written."""
    try:
        file = TensorFile(path)
        there = {key: file.read(key) for key in file.shapes}
    except OSEDiffError:
        return False
    return (
        file.metadata == metadata
        and there.keys() == tensors.keys()
        and all(
            there[key].dtype == t.dtype and torch.equal(there[key], t.cpu()) for key, t in tensors.items()
        )
    )


def _pair(name: str, tensors: Mapping[str, Tensor], module: str, alpha: float) -> dict[str, Tensor]:
    return {
        f"{name}.lora_down.weight": tensors[module + A],
        f"{name}.lora_up.weight": tensors[module + B],
        f"{name}.alpha": torch.tensor(float(alpha)),
    }


def _conv_in(
    checkpoint: Checkpoint, full: Mapping[str, Tensor], base: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Return the patches of conv_in: differences from `base` where there is one, else whole values."""
    values = {key: tensor.float() for key, tensor in full.items()}
    weight = values.get("conv_in.weight")
    if weight is not None and "conv_in" + A in checkpoint.unet:
        a, b = checkpoint.unet["conv_in" + A], checkpoint.unet["conv_in" + B]
        values["conv_in.weight"] = weight + lora_delta(a, b, checkpoint.scale_unet, weight.shape)
    if base is None:
        names = {"conv_in.weight": "lora_unet_conv_in.set_weight", "conv_in.bias": CONV_IN_BIAS}
        return {names[key]: tensor for key, tensor in values.items()}
    names = {"conv_in.weight": "lora_unet_conv_in.diff", "conv_in.bias": "lora_unet_conv_in.diff_b"}
    for key, tensor in values.items():
        if base[key].shape != tensor.shape:
            raise OSEDiffError(
                f"the checkpoint does not fit this base: {key} is {tuple(tensor.shape)}, and the base's "
                f"{tuple(base[key].shape)}; use the base that it was trained on"
            )
    return {names[key]: tensor - base[key].float() for key, tensor in values.items()}


def _metadata(checkpoint: Checkpoint, kind: str, part: str) -> dict[str, str]:
    return {
        **checkpoint.metadata,
        "format": kind,
        "format_version": str(EXPORT_VERSION),
        f"rank_{part}": str(getattr(checkpoint, f"rank_{part}")),
        f"alpha_{part}": str(getattr(checkpoint, f"alpha_{part}")),
    }

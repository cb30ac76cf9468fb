"""Low-rank adaptation: which modules carry it, and how it is folded into their weights.

Tensors are named "<module>.lora_A.weight", (r, in, ...) and "<module>.lora_B.weight", (out, r, ...); any
other name is that of a parameter that was trained in full, as conv_in's weight and bias are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from .errors import OSEDiffError

# The published code picks modules by these parts of parameter names.
UNET_PARTS = (
    "to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_in", "conv_shortcut", "conv_out",
    "proj_out", "proj_in", "ff.net.2", "ff.net.0.proj",
)  # fmt: skip
VAE_PARTS = (
    "conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out", "to_k", "to_q", "to_v", "to_out.0",
)  # fmt: skip
A, B = ".lora_A.weight", ".lora_B.weight"


def unet_group(name: str) -> str:
    """Return the adapter that the published code puts the UNet module `name` into."""
    if "down_blocks" in name or "conv_in" in name:
        return "default_encoder"
    if "up_blocks" in name or "conv_out" in name:
        return "default_decoder"
    return "default_others"


def unet_targets(unet: nn.Module) -> dict[str, list[str]]:
    """Return the UNet modules that carry LoRA, per adapter, in the published order.

    That is every linear layer and convolution except those of the time embedding.
    """
    groups: dict[str, list[str]] = {"default_encoder": [], "default_decoder": [], "default_others": []}
    for name in _weights(unet):
        if any(part in name for part in UNET_PARTS):
            groups[unet_group(name)].append(name)
    return groups


def vae_targets(vae: nn.Module) -> list[str]:
    """Return the VAE modules that carry LoRA: the encoder's, and quant_conv where the VAE has one."""
    return [
        name
        for name in _weights(vae)
        if name == "quant_conv" or ("encoder" in name and any(part in name for part in VAE_PARTS))
    ]


def _weights(module: nn.Module) -> list[str]:
    """Return the names of the modules below `module` that own a weight and are no norm."""
    names = (n for n, _ in module.named_parameters() if "bias" not in n and "norm" not in n)
    return [n.removesuffix(".weight") for n in names if n.endswith(".weight")]


def lora_delta(a: Tensor, b: Tensor, scale: float, shape: torch.Size) -> Tensor:
    """Return scale * B A as float32 of `shape`, (out, in) or (out, in, kh, kw).

    `a` is (r, in) or (r, in, kh, kw) and `b` (out, r) or (out, r, 1, 1): a convolution's low rank lies
    between its output channels and its flattened patches.
    """
    return scale * (b.float().flatten(1) @ a.float().flatten(1)).reshape(shape)


def folded(
    name: str, weight: Tensor, tensors: Mapping[str, Tensor], scale: float, strength: float = 1.0
) -> Tensor:
    """Return the parameter `name` with what `tensors` has for it, in float32, or `weight` itself.

    scale: alpha / rank, the published code's 8 / 4. strength: how far to go from the base to the trained
    model; parameters trained in full are interpolated.
    """
    layer = name.removesuffix(".weight")
    trained, adapted = name in tensors, layer + A in tensors and layer != name
    if not trained and not adapted:
        return weight
    out = weight.float()
    if trained:
        out = torch.lerp(out, tensors[name].to(out), strength)
    if adapted:
        delta = lora_delta(tensors[layer + A], tensors[layer + B], scale, weight.shape)
        out = out + strength * delta.to(out.device)
    return out


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raise OSEDiffError, naming the first keys, unless every tensor has its place in `module`."""
    shapes = {name: p.shape for name, p in module.named_parameters()}
    misfits = [text for key in tensors if (text := _misfit(key, tensors, shapes))]
    if len(misfits) == len(tensors) and (prefix := foreign_prefix(_places(shapes), tensors)):
        raise OSEDiffError(
            f"the names in the checkpoint begin with {prefix!r}, which no name of a base does "
            f"({min(tensors)}): save it without"
        )
    if misfits:
        raise OSEDiffError(
            f"the checkpoint does not fit this base ({len(misfits)} of {len(tensors)} tensors): "
            f"{'; '.join(misfits[:3])}; use it with the base that it was trained on"
        )


def foreign_prefix(expected: Iterable[str], found: Iterable[str]) -> str:
    """Return what stands before an expected name in a name that was found, "" where that explains nothing."""
    names = tuple(f".{name}" for name in expected)
    for key in found:
        if key.endswith(names):
            return min((key.removesuffix(name[1:]) for name in names if key.endswith(name)), key=len)
    return ""


def _places(parameters: Iterable[str]) -> list[str]:
    """Return what the tensors of a checkpoint may be called for these parameters."""
    layers = [(name, name.removesuffix(".weight")) for name in parameters]
    return [place for name, layer in layers for place in (name, layer + A, layer + B)]


def _misfit(key: str, tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> str | None:
    """Say what is wrong with one tensor of a checkpoint, or return None."""
    if key.endswith((A, B)):
        side, other = (A, B) if key.endswith(A) else (B, A)
        name = key.removesuffix(side)
        shape = shapes.get(f"{name}.weight")
        if name + other not in tensors:
            return f"{key} has no {other[1:7]} beside it"
        if shape is None:
            return f"{name} is no layer of the base"
        rank = tensors[name + A].shape[0]
        expected = (rank, *shape[1:]) if side == A else (shape[0], rank, *(1,) * (len(shape) - 2))
    elif key in shapes:
        expected = tuple(shapes[key])
    else:
        return f"{key} is no parameter of the base"
    found = tuple(tensors[key].shape)
    return None if found == expected else f"{key} is {found} where the base needs {expected}"

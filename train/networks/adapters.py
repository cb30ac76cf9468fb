"""What peft and the two sets of conv_in need: adapters put in, found, started and copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from osediff_core.errors import OSEDiffError
from osediff_core.lora import VAE_PARTS, A, vae_targets

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer


class SwitchedConv2d(nn.Conv2d):
    """A frozen convolution with a second, trainable set of weights, used while `trained` is true.

    The generator trains conv_in in full; teacher and critic must go on seeing the base's.
    """

    def __init__(self, base: nn.Conv2d) -> None:
        shape: dict[str, Any] = {name: getattr(base, name) for name in ("kernel_size", "stride", "padding")}
        super().__init__(base.in_channels, base.out_channels, bias=base.bias is not None, **shape)
        self.weight, self.bias = base.weight, base.bias
        self.own_weight = nn.Parameter(base.weight.detach().clone().float())
        self.own_bias = None if base.bias is None else nn.Parameter(base.bias.detach().clone().float())
        self.trained = True

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, h, w) with the set of weights that the role asks for."""
        if self.trained:
            return self._conv_forward(x, self.own_weight, self.own_bias)
        return super().forward(x)


def trained_vae_targets(vae: nn.Module, what: str) -> list[str]:
    """Name the VAE's modules that get LoRA: of the "encoder" (also for "none"), the "decoder", or "both"."""
    encoder = vae_targets(vae)
    names = [n.removesuffix(".weight") for n, _ in vae.named_parameters() if n.endswith(".weight")]
    decoder = [
        name
        for name in names
        if name == "post_quant_conv" or (name.startswith("decoder") and _is_vae_part(name))
    ]
    return {"decoder": decoder, "both": encoder + decoder}.get(what, encoder)


def _is_vae_part(name: str) -> bool:
    return "norm" not in name and any(part in name for part in VAE_PARTS)


def add_adapter(module: nn.Module, name: str, targets: list[str], rank: int, alpha: float) -> None:
    """Put LoRA called `name` beside the target modules, untrained.

    peft goes through all modules of what it is given, several times for each target: it is given the targets
    alone, side by side, which takes a tenth of the time.
    """
    import peft

    scale: Any = alpha  # peft divides it by the rank, and takes any number
    flat = {target: target.replace(".", "/") for target in targets}  # a name of peft's own may hold no point
    config = peft.LoraConfig(
        r=rank, lora_alpha=scale, target_modules=[*flat.values()], lora_dropout=0.0, init_lora_weights=False
    )
    side_by_side = nn.ModuleDict({key: module.get_submodule(target) for target, key in flat.items()})
    peft.inject_adapter_in_model(config, side_by_side, name)
    for target, key in flat.items():
        parent, _, child = target.rpartition(".")
        setattr(module.get_submodule(parent), child, side_by_side[key])
    for layer in lora_layers(side_by_side).values():
        vars(layer)["cast_input_dtype_enabled"] = False  # autocast does the casting, once


def add_frozen(module: nn.Module, name: str, tensors: Mapping[str, Tensor], rank: int, alpha: float) -> None:
    """Put LoRA called `name` beside the layers of a checkpoint's part, with its values; nobody trains it."""
    layers = [key.removesuffix(A) for key in tensors if key.endswith(A)]
    add_adapter(module, name, layers, rank, alpha)
    own = adapter_tensors(module, name, "")
    copy_strictly(own, {key: tensors[key] for key in own})


def lora_layers(module: nn.Module) -> dict[str, LoraLayer]:
    """Name the layers that carry adapters."""
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}


def share_active(layers: Iterable[LoraLayer], names: list[str]) -> None:
    """Let layers use the adapters that `names` holds at any time: changing the list switches all of them.

    A call of peft's for every layer and tensor takes as long as launching some hundred kernels. peft freezes
    what is not active now; whether a tensor is trained is not changed with the list.
    """
    for layer in layers:
        layer.set_adapter(names)
        if layer.active_adapters is not names:
            raise OSEDiffError(
                "training switches adapters by a list that this version of peft copies: install peft 0.21"
            )


def init_lora(tensors: Mapping[str, nn.Parameter], generator: torch.Generator) -> None:
    """Start adapters as the published code does: A normal with deviation 1 / rank, B zero.

    `generator` is one of the CPU, so that every device starts from the same numbers.
    """
    for name, parameter in tensors.items():
        if name.endswith(".lora_A.weight"):
            values = torch.empty(parameter.shape).normal_(0, 1 / len(parameter), generator=generator)
            parameter.data.copy_(values)
        elif name.endswith(".lora_B.weight"):
            nn.init.zeros_(parameter)


def switch_conv_in(unet: nn.Module) -> SwitchedConv2d:
    """Give the convolution below conv_in's adapters its second set of weights."""
    adapted = cast("LoraLayer", unet.conv_in)
    switched = SwitchedConv2d(cast("nn.Conv2d", adapted.base_layer))
    adapted.base_layer = switched
    return switched


def compute_merged(layer: LoraLayer) -> None:
    """Let a layer compute once with weight + scale B A, instead of beside its adapters: the same function.

    For a base so narrow, and a rank so high, that the adapters cost as much as the layer. The forward
    method is replaced on the instance, so that the names of its tensors stay what they are; adapters go on
    being switched and trained.
    """
    base = cast("nn.Conv2d | nn.Linear", layer.base_layer)

    def forward(x: Tensor) -> Tensor:
        weight = base.weight.float()
        with torch.autocast(x.device.type, enabled=False):
            for name in layer.active_adapters:
                if name in layer.lora_A:
                    first, second = (
                        cast("nn.Linear", side[name]).weight for side in (layer.lora_A, layer.lora_B)
                    )
                    change = second.flatten(1) @ first.flatten(1)  # (out, in * kh * kw)
                    weight = weight + layer.scaling[name] * change.view_as(weight)
        return torch.func.functional_call(base, {"weight": weight}, (x,))

    vars(layer)["forward"] = forward


def adapter_tensors(module: nn.Module, prefix: str, part: str) -> dict[str, nn.Parameter]:
    """Collect the parameters of adapters called `prefix`..., named part + "<module>.lora_A.weight"."""
    found = {}
    for name, layer in lora_layers(module).items():
        for side in ("lora_A", "lora_B"):
            for adapter, linear in getattr(layer, side).items():
                if adapter.startswith(prefix):
                    found[f"{part}{name}.{side}.weight"] = linear.weight
    return found


def copy_strictly(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into parameters of the same names; OSEDiffError names the first that does not fit."""
    odd = sorted(parameters.keys() ^ tensors.keys())
    odd += [k for k in parameters.keys() & tensors.keys() if parameters[k].shape != tensors[k].shape]
    if odd:
        raise OSEDiffError(f"the weights do not fit the networks of this configuration, first at {odd[0]}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def run_in_float32(module: nn.Module, out: torch.dtype) -> None:
    """Make a module compute in float32 inside autocast, and return `out`.

    The forward method is replaced on the instance, so that the names of its tensors stay what they are.
    """
    compute = module.forward

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return compute(x.float()).to(out)

    module.forward = forward

"""The tensors of a single file under the names that the networks of this project have.

Such a file has the names of the code that trained Stable Diffusion 2 (CompVis/latent-diffusion and
Stability-AI/stablediffusion, ldm/modules). `UNetModel` in diffusionmodules/openaimodel.py numbers its blocks
through all levels, and a block is a list of one to three modules. `Encoder` and `Decoder` in
diffusionmodules/model.py have a list of blocks per level. `FrozenOpenCLIPEmbedder` in encoders/modules.py
keeps the text model of OpenCLIP whole and does not run its last layer. The new names are those of diffusers'
and transformers' folders.

A table has the beginnings of names, whole modules or layers, and what replaces them. What no entry fits is
left out: moving averages, schedules and losses of the training, layers that are not run. Values are never
looked at, and the results are views. `in_original_names` goes the other way by the same tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..weights.recognise import TEXT_2, UNET, VAE

Names = dict[str, str]
Thing = TypeVar("Thing")

UNET_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.1": "mid_block.attentions.0",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
VAE_SIDE = {  # the same in the encoder and in the decoder
    "conv_in": "conv_in",
    "mid.block_1": "mid_block.resnets.0",
    "mid.block_2": "mid_block.resnets.1",
    "mid.attn_1.norm": "mid_block.attentions.0.group_norm",
    "mid.attn_1.q": "mid_block.attentions.0.to_q",
    "mid.attn_1.k": "mid_block.attentions.0.to_k",
    "mid.attn_1.v": "mid_block.attentions.0.to_v",
    "mid.attn_1.proj_out": "mid_block.attentions.0.to_out.0",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
TEXT_LAYER = {
    "ln_1": "layer_norm1",
    "attn": "self_attn",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
THIRD = re.compile(r"\.([qkv])_proj\.(weight|bias)$")
TEXT_ENDS = {
    "token_embedding": "embeddings.token_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final": "final_layer_norm",
}


def rename_unet(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the UNet among those of a single file."""
    return renamed(_below(UNET, tensors), unet_names(config))


def rename_vae(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the VAE among those of a single file, its attention as linear layers."""
    found = renamed(_below(VAE, tensors), vae_names(config))
    return {name: _linear(t) if ".attentions." in name else t for name, t in found.items()}


def rename_text_encoder(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the text encoder among those of a single file."""
    return renamed(_separated(_below(TEXT_2, tensors)), text_encoder_names(config))


def unet_names(config: Mapping[str, Any]) -> Names:
    """Return the table of a UNet.

    Going down, a level has its resnets and then a block for the downsampling; going up, the upsampling is the
    last module of the level's last block. A resnet is followed by an attention where the level attends.
    """
    per_level = config["layers_per_block"] + 1
    kinds = list(zip(config["down_block_types"], config["up_block_types"], strict=True))
    names = dict(UNET_ENDS)
    for i, middle in enumerate(("middle_block.0", "middle_block.2")):
        names |= _unet_resnet(middle, f"mid_block.resnets.{i}")
    for level, (down, up) in enumerate(kinds):
        going_down = [f"input_blocks.{level * per_level + i + 1}" for i in range(per_level)]
        going_up = [f"output_blocks.{level * per_level + i}" for i in range(per_level)]
        names |= _unet_level(going_down[:-1], f"down_blocks.{level}", _attends(down))
        names |= _unet_level(going_up, f"up_blocks.{level}", _attends(up))
        if level < len(kinds) - 1:
            names[f"{going_down[-1]}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            place = 2 if _attends(up) else 1
            names[f"{going_up[-1]}.{place}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return names


def vae_names(config: Mapping[str, Any]) -> Names:
    """Return the table of a VAE; a file numbers its levels from the finest, in the decoder too."""
    levels = len(config["down_block_types"])
    names = {name: name for name in ("quant_conv", "post_quant_conv")}
    for side in ("encoder", "decoder"):
        names |= {f"{side}.{old}": f"{side}.{new}" for old, new in VAE_SIDE.items()}
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{levels - 1 - level}"
        for old, new in ((f"encoder.down.{level}", down), (f"decoder.up.{level}", up)):
            names[f"{old}.block"] = f"{new}.resnets"
            # The number of channels changes in a level's first resnet alone.
            names[f"{old}.block.0.nin_shortcut"] = f"{new}.resnets.0.conv_shortcut"
        names[f"encoder.down.{level}.downsample"] = f"{down}.downsamplers.0"
        names[f"decoder.up.{level}.upsample"] = f"{up}.upsamplers.0"
    return names


def text_encoder_names(config: Mapping[str, Any]) -> Names:
    """Return the table of a text encoder, without the layers that its config does not count."""
    names = {old: f"text_model.{new}" for old, new in TEXT_ENDS.items()}
    for i in range(config["num_hidden_layers"]):
        layer, renamed = f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}"
        names |= {f"{layer}.{old}": f"{renamed}.{new}" for old, new in TEXT_LAYER.items()}
    return names


ORIGINAL = {
    "unet": (UNET, unet_names),
    "vae": (VAE, vae_names),
    "text_encoder": (TEXT_2, text_encoder_names),
}
"""Of each part, how its names begin in a single file, and its table."""


def _unet_level(blocks: Iterable[str], level: str, attends: bool) -> Names:
    """Return the table of the resnets of a level and, where it attends, of the attention after each."""
    names: Names = {}
    for i, block in enumerate(blocks):
        names |= _unet_resnet(f"{block}.0", f"{level}.resnets.{i}")
        if attends:
            names[f"{block}.1"] = f"{level}.attentions.{i}"
    return names


def _unet_resnet(old: str, new: str) -> Names:
    return {f"{old}.{layer}": f"{new}.{name}" for layer, name in UNET_RESNET.items()}


def _attends(kind: str) -> bool:
    return kind.startswith("CrossAttn")


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}


def in_original_names(
    tensors: Mapping[str, Mapping[str, Tensor]], configs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Return the tensors of "unet", "vae" and "text_encoder", or of some of them, as a single file has them.

    configs: as for `unet_names`, `vae_names` and `text_encoder_names`. A text encoder gets the last layer
    that such files have and nothing runs, as one that adds nothing.
    """
    out: dict[str, Tensor] = {}
    for part, weights in tensors.items():
        prefix, names_of = ORIGINAL[part]
        found = renamed(weights, reverse(names_of(configs[part])))
        if part == "vae":
            found = {name: _convolution(t) if ".attn_1." in name else t for name, t in found.items()}
        if part == "text_encoder":
            found = _with_a_last_layer(_stacked(found), configs[part]["num_hidden_layers"])
        out |= {prefix + name: tensor for name, tensor in found.items()}
    return out


def reverse(names: Names) -> Names:
    """Return the table that undoes a table."""
    return {new: old for old, new in names.items()}


def _convolution(tensor: Tensor) -> Tensor:
    """Return the weight of a linear layer as that of a 1 x 1 convolution, and anything else as it is."""
    return tensor[:, :, None, None] if tensor.ndim == 2 else tensor


def _stacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return queries, keys and values in one tensor, as OpenCLIP has them."""
    out = {key: tensor for key, tensor in tensors.items() if not THIRD.search(key)}
    for key in tensors:
        match = THIRD.search(key)
        if match is not None and match[1] == "q":
            thirds = [tensors[f"{key[: match.start()]}.{side}_proj.{match[2]}"] for side in "qkv"]
            out[f"{key[: match.start()]}.in_proj_{match[2]}"] = torch.cat(thirds)
    return out


def _with_a_last_layer(tensors: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Return the tensors and those of one more layer, which programs expect and do not use."""
    last, own = f"transformer.resblocks.{layers - 1}.", f"transformer.resblocks.{layers}."
    added = {own + key.removeprefix(last): t for key, t in tensors.items() if key.startswith(last)}
    return {**tensors, **{key: torch.zeros_like(tensor) for key, tensor in added.items()}}


def renamed(things: Mapping[str, Thing], names: Names) -> dict[str, Thing]:
    """Return what a table knows, tensors or layers, the longest entry that fits a name replaced."""
    found = {}
    for key, thing in things.items():
        known = key
        while known and known not in names:
            known = known.rpartition(".")[0]
        if known:
            found[names[known] + key[len(known) :]] = thing
    return found


def _linear(tensor: Tensor) -> Tensor:
    """Return the weight of a 1 x 1 convolution as that of a linear layer, and anything else as it is."""
    return tensor.flatten(2).squeeze(2) if tensor.ndim > 2 else tensor


def _separated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return queries, keys and values each by itself: OpenCLIP has the three in one tensor."""
    separated = {}
    for key, tensor in tensors.items():
        start, stacked, kind = key.partition("in_proj_")
        if not stacked:
            separated[key] = tensor
            continue
        for side, third in zip("qkv", tensor.tensor_split(3), strict=True):
            separated[f"{start}{side}_proj.{kind}"] = third
    return separated

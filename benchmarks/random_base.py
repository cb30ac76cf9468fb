"""A base with random weights in every form that users have: folder, single file, .ckpt.

The names of a single file are those of the original training code, written down here the other way round than
the loader converts them, so that loading one tests both.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from osediff_core.base import sd21
from osediff_core.base.vocabulary import END, SIZE, START, byte_letters
from osediff_core.lora import unet_targets, vae_targets
from osediff_core.network.config import UNetConfig, VAEConfig, read_config
from osediff_core.network.unet import UNet
from osediff_core.network.vae import VAE
from osediff_core.weights.checkpoint import Checkpoint

PARTS = ("unet", "vae", "text_encoder")
CONFIGS = {"unet": sd21.UNET, "vae": sd21.VAE, "text_encoder": sd21.TEXT_ENCODER}
PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.model.",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}
VAE_NAMES = {
    r"\.mid_block\.resnets\.0": ".mid.block_1",
    r"\.mid_block\.resnets\.1": ".mid.block_2",
    r"\.mid_block\.attentions\.0": ".mid.attn_1",
    r"\.resnets\.(\d+)": r".block.\1",
    r"\.downsamplers\.0": ".downsample",
    r"\.upsamplers\.0": ".upsample",
    r"conv_shortcut": "nin_shortcut",
    r"conv_norm_out": "norm_out",
    r"group_norm": "norm",
    r"\.to_([qkv])\.": r".\1.",
    r"\.to_out\.0": ".proj_out",
}
TEXT_NAMES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
TEXT_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
LIGHT_WIDTHS = (64, 128, 256, 256)
"""Of the lighter decoder that is published for Stable Diffusion 2.1, from the finest level on."""
LAST_LAYER = 23  # of OpenCLIP's ViT-H, which Stable Diffusion 2 leaves out


def empty(part: str, config: Mapping[str, Any] | None = None) -> nn.Module:
    """Return a network on the meta device, full size unless a config is given."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CONFIGS[part] if config is None else config
    with torch.device("meta"):
        if part == "text_encoder":
            return CLIPTextModel(CLIPTextConfig.from_dict(dict(config)))
        if part == "unet":
            return UNet(read_config(UNetConfig, config))
        return VAE(read_config(VAEConfig, config))


def random_weights(part: str, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    """Return full-size weights under the names of diffusers folders, of a size that keeps values finite.

    Norms are the identity; the rest is normal with variance 1 / fan-in, cut out of one row of numbers.
    """
    row = torch.randn(1 << 22, generator=torch.Generator().manual_seed(seed)).to(dtype)
    out = {}
    for start, (name, tensor) in enumerate(empty(part).state_dict().items()):
        if "norm" in name:
            fill = torch.ones if name.endswith("weight") else torch.zeros
            out[_with_prefix(part, name)] = fill(tensor.shape, dtype=dtype)
            continue
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 1000
        values, offset = torch.empty(tensor.numel(), dtype=dtype), start * 7919 % len(row)
        for begin in range(0, len(values), len(row) - offset):
            piece = row[offset : offset + len(values) - begin]
            torch.mul(piece, fan_in**-0.5, out=values[begin : begin + len(piece)])
        out[_with_prefix(part, name)] = values.reshape(tensor.shape)
    return out


def random_decoder(settings: Mapping[str, Any], widths: Sequence[int] = LIGHT_WIDTHS) -> dict[str, Tensor]:
    """Return the weights of a decoder of other widths for the latents of a VAE, as it is published: alone.

    settings: the VAE's. Of a published one they have the names, without a post_quant_conv.
    """
    config = {**settings, "decoder_block_out_channels": tuple(widths), "use_post_quant_conv": False}
    shapes = {key: t.shape for key, t in empty("vae", config).state_dict().items()}
    weights, g = {}, torch.Generator().manual_seed(7)
    for name, shape in shapes.items():
        if name.startswith("decoder."):
            spread = (shape[1:].numel() if len(shape) > 1 else 100) ** -0.5
            values = torch.randn(shape, generator=g) * spread  # (...)
            weights[name.removeprefix("decoder.")] = values + ("norm" in name and name.endswith("weight"))
    return weights


def write_decoder(path: Path, settings: Mapping[str, Any], widths: Sequence[int] = LIGHT_WIDTHS) -> None:
    """Write such a decoder as it is published: a pickle of its weights with a table of settings beside."""
    about = {"in_channels": 4, "out_channels": 3, "block_out_channels": [*widths], "layers_per_block": 2}
    torch.save({"config": about, "step": 1, "model_state_dict": random_decoder(settings, widths)}, path)


def _with_prefix(part: str, name: str) -> str:
    """Return a text encoder's names as files have them, whatever this version of transformers calls them."""
    return f"text_model.{name}" if part == "text_encoder" and not name.startswith("text_model.") else name


def write_folder(folder: Path, dtype: torch.dtype) -> None:
    """Write a full-size base in the diffusers layout."""
    variant = ".fp16" if dtype == torch.float16 else ""
    for part in PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        weights = random_weights(part, dtype)
        save_file(weights, folder / part / f"{stem}{variant}.safetensors", {"format": "pt"})
        (folder / part / "config.json").write_text(json.dumps(dict(CONFIGS[part])))
    write_vocabulary(folder / "tokenizer")
    settings = {"pad_token": "!", "model_max_length": 77}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(sd21.SCHEDULER)))


def write_vocabulary(folder: Path) -> None:
    """Write a vocabulary of CLIP's size and order, whose words are made up: all pairs of two letters."""
    letters = byte_letters()
    pairs = list(itertools.islice(itertools.product(letters, letters), SIZE - 2 * len(letters) - 2))
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, pairs), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    numbered = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(numbered), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *map(" ".join, pairs)])
    (folder / "merges.txt").write_text(f"{merges}\n", encoding="utf-8")


def random_checkpoint(rank: int = 4, seed: int = 1) -> Checkpoint:
    """Return a full-size OSEDiff checkpoint: LoRA on every layer that carries it, and its own conv_in."""
    generator = torch.Generator().manual_seed(seed)
    unet, vae = empty("unet"), empty("vae")
    names = {"unet": [n for group in unet_targets(unet).values() for n in group], "vae": vae_targets(vae)}
    tensors: dict[str, dict[str, Tensor]] = {"unet": {}, "vae": {}}
    for part, network in (("unet", unet), ("vae", vae)):
        shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
        for name in names[part]:
            out, *inside = shapes[f"{name}.weight"]
            a = torch.randn(rank, *inside, generator=generator) / rank
            b = torch.randn(out, rank, *(1,) * (len(inside) - 1), generator=generator) * 1e-3
            tensors[part] |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    for name in ("conv_in.weight", "conv_in.bias"):
        values = torch.randn(unet.get_parameter(name).shape, generator=generator)
        tensors["unet"][name] = values / 6  # the root of the fan-in
    return Checkpoint(tensors["unet"], tensors["vae"], rank, 2.0 * rank, rank, 2.0 * rank)


def write_single_file(path: Path, dtype: torch.dtype) -> None:
    """Write a full-size base in one file: .safetensors, or .ckpt as training leaves it."""
    tensors = dict(single_file({part: random_weights(part, dtype) for part in PARTS}))
    if path.suffix == ".ckpt":
        torch.save({"state_dict": tensors, "global_step": 1}, path)
    else:
        save_file(tensors, path)


def single_file(
    parts: Mapping[str, dict[str, Tensor]], layers: int = 2, levels: int = 4
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the three networks under the names of a single file.

    layers: resnets per level of the UNet going down; levels: of the VAE.
    """
    for name, tensor in parts["unet"].items():
        yield PREFIXES["unet"] + _unet_name(name, layers, parts["unet"].keys()), tensor
    for name, tensor in parts["vae"].items():
        attention = ".attentions." in name and name.endswith("weight") and "group_norm" not in name
        yield PREFIXES["vae"] + _vae_name(name, levels), tensor[:, :, None, None] if attention else tensor
    for name, tensor in _open_clip(parts["text_encoder"]):
        yield PREFIXES["text_encoder"] + name, tensor.contiguous()


def _unet_name(name: str, layers: int, names: object) -> str:
    for ours, theirs in UNET_ENDS.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs)
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)|mid_block\.(\w+)\.(\d+)\.(.+)", name)
    assert match is not None, name
    if match[6]:
        place = 1 if match[6] == "attentions" else 2 * int(match[7])
        return f"middle_block.{place}.{_resnet(match[8]) if match[6] == 'resnets' else match[8]}"
    way, level, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    side = "input_blocks" if way == "down" else "output_blocks"
    if kind == "downsamplers":
        return f"{side}.{(level + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        attends = f"up_blocks.{level}.attentions.0.norm.weight" in names
        return f"{side}.{level * (layers + 1) + layers}.{2 if attends else 1}.{rest}"
    block = level * (layers + 1) + index + (way == "down")
    return f"{side}.{block}.0.{_resnet(rest)}" if kind == "resnets" else f"{side}.{block}.1.{rest}"


def _resnet(rest: str) -> str:
    layer, tensor = rest.rsplit(".", 1)
    return f"{RESNET[layer]}.{tensor}"


def _vae_name(name: str, levels: int) -> str:
    name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}", name)
    name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
    for ours, theirs in VAE_NAMES.items():
        name = re.sub(ours, theirs, name)
    return name


def _open_clip(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield OpenCLIP's names: queries, keys and values are one tensor, and the last layer is there too."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        name = name.removeprefix("text_model.")
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name)
        if name in TEXT_ENDS:
            yield TEXT_ENDS[name], tensor
        elif match is not None:  # old files have the numbers of the positions besides
            layers.setdefault(match[1], {})[match[2]] = tensor
    layers[str(LAST_LAYER)] = layers["0"]
    for index, layer in layers.items():
        for kind in ("weight", "bias"):
            parts = [layer[f"self_attn.{side}_proj.{kind}"] for side in "qkv"]
            yield f"transformer.resblocks.{index}.attn.in_proj_{kind}", torch.cat(parts)
        for name, tensor in layer.items():
            stem, kind = name.rsplit(".", 1)
            if stem in TEXT_NAMES:
                yield f"transformer.resblocks.{index}.{TEXT_NAMES[stem]}.{kind}", tensor.clone()
    width = layers["0"]["layer_norm1.weight"].numel()
    yield "text_projection", torch.eye(width, dtype=layers["0"]["layer_norm1.weight"].dtype)
    yield "logit_scale", torch.tensor(100.0)

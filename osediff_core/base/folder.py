"""A base in the diffusers folder layout: five folders with configs, weights and a tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import OSEDiffError
from ..network.config import write_config
from ..network.unet import UNet
from ..network.vae import VAE
from ..text_files import parse_json, read_settings, read_text
from ..weights.recognise import SD2, name_of_config
from ..weights.tensorfile import TensorFile
from ..whole_files import sweep, write_beside, write_whole, writing
from .network import NetworkFiles
from .vocabulary import tokenizer_of

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

FOLDERS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
TOKENIZER = (
    "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip
# How weights are called: "model" by transformers, the other by diffusers; ".fp16" and the like is a variant.
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model|pytorch_model)"
    r"(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?(?:\.(?P<late>\w+))?\.(?P<kind>safetensors|bin)"
)
# Names that the attention of a VAE had until diffusers 0.18, as in the published Stable Diffusion 2.1-base.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD = re.compile(r"(\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")


def check_layout(path: Path) -> None:
    """Raise OSEDiffError unless `path` has the five folders of a base."""
    missing = [name for name in FOLDERS if not (path / name).is_dir()]
    if missing:
        raise OSEDiffError(
            f"{path} is no base in the diffusers layout: it lacks the folders {', '.join(missing)}"
        )


def scheduler_config(path: Path) -> dict[str, Any]:
    """Read the scheduler's config; OSEDiffError if the base does not predict noise."""
    config = read_settings(path / "scheduler" / "scheduler_config.json")
    kind = config.get("prediction_type", "epsilon")
    if kind != "epsilon":
        raise OSEDiffError(
            f"the base {path} has prediction_type {kind!r}, but OSEDiff needs one that predicts noise "
            "(epsilon): the usual cause is Stable Diffusion 2.1 for 768 px, which predicts velocity "
            "(v-prediction); use 2.1-base, for 512 px"
        )
    return config


def folder_parts(path: Path) -> dict[str, NetworkFiles]:
    """Return the three networks of a base folder, after a look at their configs and the files' headers.

    Raises OSEDiffError for another kind of model, which is named, and for damaged or missing files.
    """
    configs = {name: read_settings(path / name / "config.json") for name in ("unet", "vae", "text_encoder")}
    _check_configs(configs, path)
    parts = {}
    for name, config in configs.items():
        files = [TensorFile(file) for file in weight_files(path / name)]
        parts[name] = NetworkFiles(name, str(path / name), config, files, _renamed)
    return parts


def load_tokenizer(path: Path) -> CLIPTokenizer:
    """Return the tokenizer of a base folder; OSEDiffError if it is missing or damaged.

    The library gets copies of its texts: it does not read a byte order mark, and has no bounds of its own.
    """
    folder, texts = path / "tokenizer", {}
    for name in TOKENIZER:
        try:
            texts[name] = read_text(folder / name)
            if name.endswith(".json"):
                parse_json(texts[name])
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise OSEDiffError(f"{folder / name} is damaged ({error}): get the base again") from error
    return tokenizer_of(texts, folder, {})


def write_network(folder: Path, network: UNet | VAE) -> None:
    """Write the config and the weights of a network; the folder is made. OSEDiffError where it cannot be."""
    from safetensors.torch import save_file

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    settings = json.dumps(write_config(network.config), indent=2) + "\n"
    write_whole(folder / "config.json", settings.encode())
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    write_beside(
        folder / "diffusion_pytorch_model.safetensors",
        lambda beside: save_file(weights, beside, metadata={"format": "pt"}),
    )


def _check_configs(configs: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Refuse another model, by its name where it has one, and parts that do not belong together."""
    unet, vae, text = (configs[name] for name in ("unet", "vae", "text_encoder"))
    channels = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    widths = unet.get("cross_attention_dim"), text.get("hidden_size", 512)
    name = name_of_config(unet)
    if name not in ("", SD2):
        detail = f"its UNet takes {channels[0]} channels and attends to text of width {widths[0]}"
        raise OSEDiffError(f"{path} is {name} ({detail}), but OSEDiff needs Stable Diffusion 2.1-base")
    if channels[0] != channels[1]:
        raise OSEDiffError(
            f"the UNet of {path} takes {channels[0]} channels where its VAE has {channels[1]}: "
            "use a text-to-image base, not an inpainting or depth one"
        )
    if widths[0] != widths[1]:
        raise OSEDiffError(
            f"the UNet of {path} attends to text of width {widths[0]}, but its text encoder gives "
            f"{widths[1]}: the parts are of different models, so get the base again"
        )


def weight_files(folder: Path) -> list[Path]:
    """Return the files of one network: safetensors before torch's, full precision before a variant.

    A network in several files ("shards") has them all returned.
    """
    groups: dict[tuple[bool, bool, str], list[Path]] = {}
    for file in sorted(folder.iterdir()):
        match = WEIGHTS.fullmatch(file.name)
        if match is not None:
            variant = match["variant"] or match["late"] or ""
            order = (match["kind"] != "safetensors", bool(variant), variant)
            groups.setdefault(order, []).append(file)
    if not groups:
        raise OSEDiffError(f"{folder} has no weights (.safetensors or .bin): get the base again")
    return groups[min(groups)]


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under today's names; a linear layer may have been stored as a 1x1 convolution."""
    found = {}
    for key, tensor in tensors.items():
        match = OLD.fullmatch(key[key.find(".attentions") :]) if ".attentions." in key else None
        if match is not None:
            start = key[: key.find(".attentions")]
            key = f"{start}{match[1]}.{OLD_NAMES[match[2]]}.{match[3]}"
            tensor = tensor.flatten(1) if tensor.ndim == 4 else tensor
        found[key] = tensor
    return found

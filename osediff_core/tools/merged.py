"""A base with a checkpoint folded in for good: a folder, or one file for ComfyUI's own loaders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..base.folder import write_network
from ..base.load import find_parts, read_schedule
from ..base.marker import marked, write_marker
from ..base.network import empty_network, fill
from ..base.original_names import ORIGINAL, in_original_names
from ..base.precision import MEASURED
from ..base.text import write_empty_prompt
from ..device.memory import NotEnoughMemoryError
from ..errors import OSEDiffError
from ..model import OSEDiff, check_merged, folding
from ..network.config import UNetConfig, VAEConfig
from ..pipeline.runtime import converted
from ..weights.checkpoint import Checkpoint, read_checkpoint, save_tensors
from ..whole_files import write_folder
from .bfloat16 import worst_psnr

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


def write_merged(
    out: str | Path,
    base: str | Path,
    weights: str | Path,
    *,
    strength: float = 1.0,
    dtype: torch.dtype = torch.float16,
    vocabulary: str | Path | None = None,
    decoder: str | Path | None = None,
) -> None:
    """Write a new folder that holds `base` with `weights` folded in, marked as an OSEDiff model.

    LoRA is folded in float32 and rounded once to `dtype`. vocabulary, decoder: as for
    `OSEDiff.from_pretrained`. The mark says how near its bfloat16 comes to float32 (`worst_psnr`), where the
    memory suffices to find out. The folder is written beside and then renamed. Raises OSEDiffError if it
    exists, cannot be written, or if base, weights or decoder cannot be loaded.
    """
    out = Path(out)
    if out.exists():
        raise OSEDiffError(f"{out} is there already: name a folder that does not exist yet")
    checkpoint = read_checkpoint(weights)
    model = OSEDiff.from_pretrained(
        base,
        weights,
        strength=strength,
        dtype=dtype,
        device="cpu",
        vocabulary=vocabulary,
        decoder=decoder,
    )
    schedule = read_schedule(base)
    about = _about(checkpoint, Path(weights), strength, dtype)
    if decoder is not None:
        about["decoder"] = Path(decoder).name

    def write(folder: Path) -> None:
        _save(folder, model, schedule)
        with suppress(NotEnoughMemoryError):
            about[MEASURED] = f"{worst_psnr(model):.1f}"
        write_marker(folder, about)

    write_folder(out, write)


def write_single(
    out: str | Path,
    base: str | Path,
    weights: str | Path,
    *,
    parts: Sequence[str] = ("unet", "vae", "text_encoder"),
    strength: float = 1.0,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write parts of `base` with `weights` folded in as one file, in the names that ComfyUI's loaders know.

    All three are a checkpoint, for its Load Checkpoint; the VAE alone is one for its Load VAE. LoRA is folded
    in float32 and rounded once to `dtype`. Raises OSEDiffError if base or weights cannot be loaded.
    """
    check_merged(base, Path(weights), strength)
    read_schedule(base)  # which must be one of noise
    checkpoint = read_checkpoint(weights)
    tensors, configs = {}, {}
    for name, part in find_parts(base).items():
        if name in parts:
            network = empty_network(part)
            change = None if name == "text_encoder" else folding(name, network, checkpoint, strength)
            fill(network, part, change, lambda _name: dtype, "cpu")
            tensors[name], configs[name] = _plain_names(name, network), _settings(network)
    found = in_original_names(tensors, configs)
    if len(parts) == 1:
        found = {key.removeprefix(ORIGINAL[parts[0]][0]): tensor for key, tensor in found.items()}
    about = _about(checkpoint, Path(weights), strength, dtype)
    save_tensors(out, found, {**marked(about), "modelspec.prediction_type": "epsilon"})


def _plain_names(name: str, network: nn.Module) -> dict[str, Tensor]:
    """Return the weights; those of a text encoder with "text_model.", which transformers 5.6 took out."""
    weights, prefix = network.state_dict(), "text_model."
    if name != "text_encoder" or any(key.startswith(prefix) for key in weights):
        return weights
    return {prefix + key: tensor for key, tensor in weights.items()}


def _settings(network: nn.Module) -> dict[str, Any]:
    """Return a network's settings under their names in config files."""
    config: Any = network.config
    return asdict(config) if isinstance(config, UNetConfig | VAEConfig) else config.to_dict()


def _save(folder: Path, model: OSEDiff, schedule: Mapping[str, Any]) -> None:
    """Write the five parts of a base in the diffusers layout."""
    write_network(folder / "unet", model.unet)
    write_network(folder / "vae", model.vae)
    model.text_encoder.save_pretrained(folder / "text_encoder")  # pyright: ignore[reportCallIssue]
    settings = json.loads((folder / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    settings.pop("_name_or_path", None)  # where it was on the computer that made it
    _write_json(folder / "text_encoder" / "config.json", settings)
    _save_tokenizer(folder / "tokenizer", model.tokenizer)
    with converted(model.text_encoder, torch.float32):
        write_empty_prompt(folder, model.tokenizer, model.text_encoder)
    (folder / "scheduler").mkdir()
    settings = {"_class_name": "DDPMScheduler", **schedule}
    _write_json(folder / "scheduler" / "scheduler_config.json", settings)


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _save_tokenizer(folder: Path, tokenizer: CLIPTokenizer) -> None:
    """Write a tokenizer so that any version of transformers reads it: version 5 leaves out the old files."""
    tokenizer.save_pretrained(folder)
    if (folder / "vocab.json").is_file():
        return
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def _about(checkpoint: Checkpoint, weights: Path, strength: float, dtype: torch.dtype) -> dict[str, str]:
    about = {
        "weights": weights.name,
        "strength": str(strength),
        "dtype": str(dtype).removeprefix("torch."),
        "rank_unet": str(checkpoint.rank_unet),
        "alpha_unet": str(checkpoint.alpha_unet),
        "rank_vae": str(checkpoint.rank_vae),
        "alpha_vae": str(checkpoint.alpha_vae),
    }
    return {**checkpoint.metadata, **about}

"""OSEDiff checkpoints: ours (.safetensors with metadata) and the published layout (.pkl)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import OSEDiffError
from ..lora import A, B, unet_group
from ..whole_files import write_beside
from .pickles import load_pickle
from .recognise import name_of
from .tensorfile import TensorFile

FORMAT, FORMAT_VERSION = "osediff", 1
PUBLISHED_ALPHA = 8.0  # peft's default, which the published code leaves unsaid and does not store
RESERVED = ("format", "format_version", "rank_unet", "alpha_unet", "rank_vae", "alpha_vae")
PUBLISHED_SUFFIXES = (".pkl", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Checkpoint:
    """What OSEDiff training adds to a base.

    unet, vae: "<module>.lora_A.weight" (r, in, ...), "<module>.lora_B.weight" (out, r, ...), and in `unet`
    "conv_in.weight" and "conv_in.bias" where they were trained in full. LoRA is applied times alpha / rank.
    metadata: free text: base, config, licence, steps and the like.
    """

    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    rank_unet: int
    alpha_unet: float
    rank_vae: int
    alpha_vae: float
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def scale_unet(self) -> float:
        """What the UNet's B A is multiplied by."""
        return self.alpha_unet / self.rank_unet

    @property
    def scale_vae(self) -> float:
        """What the VAE's B A is multiplied by."""
        return self.alpha_vae / self.rank_vae


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read an OSEDiff checkpoint: ours (.safetensors) or the published .pkl, whose code is never executed.

    Raises OSEDiffError if the file is missing, empty, truncated, something else, or incomplete.
    """
    path = Path(path)
    if not path.is_file():
        raise OSEDiffError(f"there is no checkpoint at {path}: check the path, or download the file first")
    if path.stat().st_size == 0:
        raise OSEDiffError(f"{path} is empty (0 bytes), so its download or copy failed: get the file again")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        checkpoint = _from_ours(TensorFile(path))
    elif suffix in PUBLISHED_SUFFIXES:
        checkpoint = _from_published(load_pickle(path, mapped=True), path)
    else:
        raise OSEDiffError(f"an OSEDiff checkpoint is a .safetensors or .pkl file, got {path.name}")
    _check_complete(checkpoint, path)
    return checkpoint


def write_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write our layout, beside and then renamed, so that `path` is never half a file."""
    parts = {"unet": checkpoint.unet, "vae": checkpoint.vae}
    tensors = {f"{part}.{k}": v for part, items in parts.items() for k, v in items.items()}
    metadata = {
        **{k: str(v) for k, v in checkpoint.metadata.items()},
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "rank_unet": str(checkpoint.rank_unet),
        "alpha_unet": str(checkpoint.alpha_unet),
        "rank_vae": str(checkpoint.rank_vae),
        "alpha_vae": str(checkpoint.alpha_vae),
    }
    save_tensors(path, tensors, metadata)


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file, beside and then renamed; OSEDiffError where that cannot be done."""
    write_beside(Path(path), tensor_writer(tensors, metadata))


def tensor_writer(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Callable[[Path], None]:
    """Return what writes a .safetensors file, for the functions of `whole_files`."""
    from safetensors.torch import save_file

    plain = {key: _plain(tensor) for key, tensor in tensors.items()}
    return lambda path: save_file(plain, path, dict(metadata))


def write_published(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write the layout of the published osediff.pkl, whose alpha is always 8: B takes up the difference.

    Raises OSEDiffError if conv_in was not trained, because the published loader needs it.
    """
    write_beside(Path(path), lambda beside: torch.save(_to_published(checkpoint), beside))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _from_ours(file: TensorFile) -> Checkpoint:
    """Check what the file says of itself, before its tensors are read, and split them by part."""
    path, metadata = file.path, file.metadata
    if metadata.get("format") != FORMAT:
        raise OSEDiffError(
            f"{path} is no OSEDiff checkpoint, whose metadata has format={FORMAT}, but "
            f"{_named(file)}: give the checkpoint"
        )
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise OSEDiffError(
            f"{path} has format version {metadata.get('format_version')}, but this program reads "
            f"{FORMAT_VERSION}: update the program"
        )
    tensors = {key: tensor.clone() for key, tensor in file.tensors().items()}
    try:
        return Checkpoint(
            unet={k.removeprefix("unet."): v for k, v in tensors.items() if k.startswith("unet.")},
            vae={k.removeprefix("vae."): v for k, v in tensors.items() if k.startswith("vae.")},
            rank_unet=int(metadata["rank_unet"]),
            alpha_unet=float(metadata["alpha_unet"]),
            rank_vae=int(metadata["rank_vae"]),
            alpha_vae=float(metadata["alpha_vae"]),
            metadata={k: v for k, v in metadata.items() if k not in RESERVED},
        )
    except (KeyError, ValueError) as error:
        raise OSEDiffError(f"{path} lacks a readable rank or alpha in its metadata ({error})") from error


def _from_published(content: object, path: Path) -> Checkpoint:
    """Convert what the published training saves; adapter names go, and conv_in's base layer is conv_in."""
    kinds = {"state_dict_unet": dict, "state_dict_vae": dict, "rank_unet": int, "rank_vae": int}
    if not isinstance(content, dict) or any(
        not isinstance(content.get(k), kind) for k, kind in kinds.items()
    ):
        raise OSEDiffError(
            f"{path} is no OSEDiff checkpoint, which has {', '.join(kinds)}, but {_named(TensorFile(path))}: "
            "give the checkpoint"
        )
    return Checkpoint(
        unet=_from_published_tensors(content["state_dict_unet"]),
        vae=_from_published_tensors(content["state_dict_vae"]),
        rank_unet=content["rank_unet"],
        alpha_unet=PUBLISHED_ALPHA,
        rank_vae=content["rank_vae"],
        alpha_vae=PUBLISHED_ALPHA,
    )


def _from_published_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of one part, and copy them out of the file; others than tensors are left to see."""
    found = {}
    for key, tensor in tensors.items():
        name = re.sub(r"\.(lora_[AB])\.[^.]+\.weight$", r".\1.weight", str(key)).replace(".base_layer.", ".")
        found[name] = tensor.clone() if isinstance(tensor, Tensor) else tensor
    return found


def _named(file: TensorFile) -> str:
    """Say what a file is that is no checkpoint."""
    kind = file.metadata.get("format", "")
    return f"a file of the format {kind}" if kind.startswith("osediff-") else name_of(file.shapes)


def _to_published(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the dict that the published training saves, keys in its order."""
    if not {"conv_in.weight", "conv_in.bias"} <= checkpoint.unet.keys():
        raise OSEDiffError(
            "the published layout needs conv_in.weight and conv_in.bias, which this checkpoint lacks"
        )
    unet_modules = [key.removesuffix(A) for key in checkpoint.unet if key.endswith(A)]
    group = {g: [m for m in unet_modules if unet_group(m) == g] for g in map(unet_group, unet_modules)}
    return {
        "vae_lora_encoder_modules": [key.removesuffix(A) for key in checkpoint.vae if key.endswith(A)],
        "unet_lora_encoder_modules": group.get("default_encoder", []),
        "unet_lora_decoder_modules": group.get("default_decoder", []),
        "unet_lora_others_modules": group.get("default_others", []),
        "rank_unet": checkpoint.rank_unet,
        "rank_vae": checkpoint.rank_vae,
        "state_dict_unet": _published_tensors(checkpoint.unet, checkpoint.alpha_unet, unet_group),
        "state_dict_vae": _published_tensors(
            checkpoint.vae, checkpoint.alpha_vae, lambda _: "default_encoder"
        ),
    }


def _published_tensors(
    tensors: Mapping[str, Tensor], alpha: float, group: Callable[[str], str]
) -> dict[str, Tensor]:
    """Rename the tensors of one part, and rescale B so that alpha 8 means what `alpha` meant."""
    out = {}
    for key, tensor in tensors.items():
        if key.endswith((A, B)):
            module, side = key.removesuffix(".weight").rsplit(".", 1)
            factor = alpha / PUBLISHED_ALPHA if key.endswith(B) else 1.0
            out[f"{module}.{side}.{group(module)}.weight"] = _plain(tensor.float() * factor)
        else:
            module, kind = key.rsplit(".", 1)
            out[f"{module}.base_layer.{kind}"] = _plain(tensor.float())
    return out


def _check_complete(checkpoint: Checkpoint, path: Path) -> None:
    """Raise OSEDiffError unless UNet and VAE both have whole LoRA pairs of the stated rank, all finite."""
    _check_part("UNet", checkpoint.unet, checkpoint.rank_unet, checkpoint.alpha_unet, path)
    _check_part("VAE", checkpoint.vae, checkpoint.rank_vae, checkpoint.alpha_vae, path)


def _check_part(part: str, tensors: Mapping[str, Tensor], rank: int, alpha: float, path: Path) -> None:
    if rank < 1 or not math.isfinite(alpha):
        raise OSEDiffError(f"{path} is damaged: the {part} has rank {rank} and alpha {alpha}")
    downs = {key.removesuffix(A) for key in tensors if key.endswith(A)}
    ups = {key.removesuffix(B) for key in tensors if key.endswith(B)}
    if not downs:
        raise OSEDiffError(f"{path} is incomplete: it has no LoRA for the {part}")
    if downs != ups:
        half = min(downs ^ ups)
        raise OSEDiffError(f"{path} is incomplete: {half} in the {part} has only half of its LoRA")
    for key, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.isfinite().all():
            raise OSEDiffError(f"{path} is damaged: {key} in the {part} has values that are not numbers")
        if key.endswith(A) and (tensor.ndim < 2 or len(tensor) != rank):
            raise OSEDiffError(f"{path} says rank {rank} for the {part}, but {key} is {tuple(tensor.shape)}")

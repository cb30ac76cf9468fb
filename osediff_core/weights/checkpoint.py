"""OSEDiff checkpoints: ours (.safetensors with metadata) and the published layout (.pkl)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import limits
from ..errors import OSEDiffError
from ..lora import A, B, unet_group
from ..whole_files import write_beside
from .files import check_file
from .lora_names import ALPHA, read_name
from .recognise import name_of
from .tensorfile import TensorFile

FORMAT, FORMAT_VERSION = "osediff", 1
PUBLISHED_ALPHA = 8.0  # peft's default, which the published code leaves unsaid and does not store
RESERVED = ("format", "format_version", "rank_unet", "alpha_unet", "rank_vae", "alpha_vae")
SUFFIXES = (".safetensors", ".sft", ".pkl", ".pt", ".pth", ".bin", ".ckpt")
PARTS = ("unet", "vae")

logger = logging.getLogger(__name__)


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
    """Read an OSEDiff checkpoint: ours, the published .pkl, or its LoRA in the names of other programs.

    Code in it is never executed. Raises OSEDiffError if the file is missing, empty, truncated, something
    else, or incomplete.
    """
    path = Path(path)
    if not path.exists() or path.is_dir():
        raise OSEDiffError(f"there is no checkpoint at {path}: check the path, or download the file first")
    check_file(path)
    if path.suffix.lower() not in SUFFIXES:
        raise OSEDiffError(f"an OSEDiff checkpoint is a .safetensors or .pkl file, got {path.name}")
    file = TensorFile(path)
    layout = layout_of(file)
    if layout is None:
        raise OSEDiffError(
            f"{path} is no OSEDiff checkpoint, which has format={FORMAT} in its metadata or, as published, "
            f"state_dict_unet, state_dict_vae, rank_unet and rank_vae, but {_named(file)}: give the "
            "checkpoint"
        )
    checkpoint = _READERS[layout](file)
    _check_complete(checkpoint, path)
    return checkpoint


def layout_of(file: TensorFile) -> str | None:
    """Return how a file holds an OSEDiff checkpoint, in words, or None where it holds none."""
    kind = file.metadata.get("format", "")
    if kind == FORMAT:
        return OURS
    if all(any(key.startswith(f"state_dict_{part}.") for key in file.shapes) for part in PARTS):
        return PUBLISHED
    paired = {read_name(key).part for key in file.shapes if read_name(key).kind in (A, B)}
    return FOREIGN if paired >= set(PARTS) and not kind.startswith("osediff-") else None


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
    if file.metadata.get("format_version") != str(FORMAT_VERSION):
        raise OSEDiffError(
            f"{file.path} has format version {file.metadata.get('format_version')}, but this program reads "
            f"{FORMAT_VERSION}: update the program"
        )
    numbers = [_number(file, f"{what}_{part}") for part in PARTS for what in ("rank", "alpha")]
    return _of(file, numbers, {k: v for k, v in file.metadata.items() if k not in RESERVED})


def _from_published(file: TensorFile) -> Checkpoint:
    """Read what the published training saves; adapter names go, and conv_in's base layer is conv_in."""
    ranks = [_number(file, f"rank_{part}") for part in PARTS]
    return _of(file, [ranks[0], PUBLISHED_ALPHA, ranks[1], PUBLISHED_ALPHA], {})


def _from_foreign(file: TensorFile) -> Checkpoint:
    """Read ranks off the tensors; alpha is said for each layer or in the metadata, or else is the rank."""
    names = {key: read_name(key) for key in file.shapes}
    numbers = []
    for part in PARTS:
        ranks = {file.shapes[key][:1] for key, n in names.items() if n.part == part and n.kind == A}
        said = {_scalar(file, key) for key, n in names.items() if n.part == part and n.kind == ALPHA}
        rank = float(*min(ranks)) if len(ranks) == 1 and () not in ranks else math.nan
        if not said and f"alpha_{part}" in file.metadata:
            said = {_number(file, f"alpha_{part}")}
        if not said:
            logger.warning("%s does not say alpha for the %s, so it is taken to be the rank", file.path, part)
        if math.isnan(rank) or len(said) > 1:
            raise OSEDiffError(
                f"{file.path} has layers of different rank or alpha in the {part}, but an OSEDiff checkpoint "
                "has one for all: give the checkpoint that it was made from"
            )
        numbers += [rank, said.pop() if said else rank]
    return _of(file, numbers, dict(file.metadata))


OURS, PUBLISHED, FOREIGN = (
    "this project's layout",
    "the published layout",
    "the names of another program's LoRA",
)
_READERS = {OURS: _from_ours, PUBLISHED: _from_published, FOREIGN: _from_foreign}


def _of(file: TensorFile, numbers: list[float], metadata: dict[str, str]) -> Checkpoint:
    """Read the tensors of both parts under this project's names; numbers: rank and alpha of UNet and VAE."""
    rank_unet, alpha_unet, rank_vae, alpha_vae = numbers
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for key in file.shapes:
        name = read_name(key)
        if name.part in parts and name.kind != ALPHA:
            own = name.module + name.kind
            if own in parts[name.part]:
                raise OSEDiffError(
                    f"{file.path} has {own} of the {name.part} twice: save it with one adapter"
                )
            parts[name.part][own] = _readable(file, key)
    if file.shapes and not any(parts.values()):
        raise OSEDiffError(
            f"{file.path} has no name that begins with unet. or vae., but others such as {min(file.shapes)}: "
            "save it with names that begin so"
        )
    return Checkpoint(**parts, rank_unet=int(rank_unet), alpha_unet=alpha_unet, rank_vae=int(rank_vae),
                      alpha_vae=alpha_vae, metadata=metadata)  # fmt: skip


def _readable(file: TensorFile, key: str) -> Tensor:
    """Read one tensor; those of eight bits in float32, as nothing can be computed in them."""
    dtype = file.dtype(key)
    if not dtype.is_floating_point:
        raise OSEDiffError(
            f"{file.path} has {key} in {str(dtype).removeprefix('torch.')}, expected floating point numbers: "
            "get it in float16 or float32"
        )
    tensor = file.read(key)
    return tensor.float() if dtype.itemsize == 1 else tensor


def _number(file: TensorFile, name: str) -> float:
    """Return a rank or an alpha of the metadata."""
    try:
        number = float(file.metadata[name])
    except (KeyError, ValueError) as error:
        raise OSEDiffError(
            f"{file.path} lacks a readable {name} in its metadata "
            f"({file.metadata.get(name, 'there is none')}): get the file again"
        ) from error
    return _checked(number, name, file.path)


def _scalar(file: TensorFile, key: str) -> float:
    """Return the number that a tensor of a LoRA's alpha holds."""
    if math.prod(file.shapes[key]) != 1:
        raise OSEDiffError(f"{file.path} is damaged: {key} is {file.shapes[key]}, expected one number")
    return _checked(float(file.read(key).float()), key, file.path)


def _checked(number: float, name: str, path: Path) -> float:
    rank = name.startswith("rank")
    if not abs(number) <= limits.ALPHA or (rank and (number < 1 or number % 1)):  # also for not a number
        raise OSEDiffError(f"{path} is damaged: {name} is {number:g}; get the file again")
    return number


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
    _check_part("UNet", checkpoint.unet, checkpoint.rank_unet, path)
    _check_part("VAE", checkpoint.vae, checkpoint.rank_vae, path)


def _check_part(part: str, tensors: Mapping[str, Tensor], rank: int, path: Path) -> None:
    downs = {key.removesuffix(A) for key in tensors if key.endswith(A)}
    ups = {key.removesuffix(B) for key in tensors if key.endswith(B)}
    if not downs:
        raise OSEDiffError(f"{path} is incomplete: it has no LoRA for the {part}")
    if downs != ups:
        half = min(downs ^ ups)
        raise OSEDiffError(f"{path} is incomplete: {half} in the {part} has only half of its LoRA")
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise OSEDiffError(f"{path} is damaged: {key} in the {part} has values that are not numbers")
        if (key.endswith((A, B)) and tensor.ndim < 2) or (key.endswith(A) and len(tensor) != rank):
            raise OSEDiffError(f"{path} says rank {rank} for the {part}, but {key} is {tuple(tensor.shape)}")

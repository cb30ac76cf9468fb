"""What a file or folder is, told as a person may ask it: kind, base, rank and alpha, training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from ..base.decoder import with_decoder
from ..base.folder import FOLDERS, scheduler_config
from ..base.hub_cache import is_hub_id
from ..base.load import find_parts, locate, read_conv_in
from ..base.marker import read_marker
from ..base.network import empty_network
from ..base.precision import MEASURED
from ..base.single_file import single_file_parts
from ..errors import OSEDiffError
from ..lora import A, B, check_fit, lora_delta
from ..pictures.results import made
from ..prompts.ram import HEAD, SWIN
from ..prompts.tagger_file import FORMAT as TAGGER_FORMAT
from ..prompts.tagger_file import read_tagger
from ..text_files import parse_json
from ..weights.checkpoint import Checkpoint, layout_of, read_checkpoint
from ..weights.recognise import DECODER, SD2, name_of, name_of_config
from ..weights.tensorfile import TensorFile
from . import exports

BASE_SD21 = "Stable Diffusion 2 for 512 px (2.1-base or 2-base, which are shaped alike), a base for OSEDiff"
NOT_SAID = "not said in the file"
OWN_BASE = "a base of its own size, for checkpoints trained on it"
CONV_IN = {
    "lora_unet_conv_in.diff": "as a difference, which follows the strength",
    "lora_unet_conv_in.set_weight": "set, whatever the strength: use strength 1",
}


@dataclass(frozen=True)
class Description:
    """kind: one line. facts: label to text, in the order to show. config: how it was trained, as TOML."""

    kind: str
    facts: dict[str, str] = field(default_factory=dict)
    config: str = ""


def describe(path: str | Path, base: str | Path | None = None) -> Description:
    """Tell what a file, a folder or a model of the hub's cache is; nothing in it is executed.

    base: for a checkpoint or a decoder, what to hold it against. Raises OSEDiffError for what is
    missing or damaged.
    """
    if not Path(path).exists() and not is_hub_id(str(path)):
        raise OSEDiffError(f"there is no file or folder {path}: check the path")
    place = locate(path)
    if place.is_dir():
        return _folder(place)
    if (note := made(place)) is not None:
        return _result(note)
    file = TensorFile(place)
    kind = file.metadata.get("format", "")
    layout = layout_of(file)
    if layout is not None:
        return _checkpoint(read_checkpoint(place), f"an OSEDiff checkpoint in {layout}", file, base)
    if kind in (exports.UNET_FORMAT, exports.VAE_FORMAT):
        return _export(file, "unet" if kind == exports.UNET_FORMAT else "vae")
    if kind == TAGGER_FORMAT:
        return _tagger(file)
    kind, use = _foreign(file)
    facts = {"used by": use} if use else {"keys": _first_keys(file)}
    if kind == DECODER and base is not None:
        facts["on that base"] = _decoder_held_against(place, base)
    return Description(kind, facts | _storage(file))


def _result(note: str) -> Description:
    """Tell how a picture was made, by what it says of itself."""
    try:
        content = parse_json(note)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        return Description("a picture that another program has made of one", {"by": note})
    return Description("a restored picture", {str(name): str(value) for name, value in content.items()})


# ---- checkpoints --------------------------------------------------------------------------------


def _checkpoint(checkpoint: Checkpoint, kind: str, file: TensorFile, base: str | Path | None) -> Description:
    facts = {"for": checkpoint.metadata.get("base") or _fitting_base(checkpoint)}
    for part, name in (("unet", "UNet"), ("vae", "VAE encoder")):
        tensors = getattr(checkpoint, part)
        rank, alpha = getattr(checkpoint, f"rank_{part}"), getattr(checkpoint, f"alpha_{part}")
        facts[name] = _lora(tensors, rank, alpha, getattr(checkpoint, f"scale_{part}"))
    facts["in full"] = ", ".join(k for k in checkpoint.unet if not k.endswith((A, B))) or "nothing"
    facts |= _training(checkpoint.metadata)
    facts |= _storage(file)
    if base is not None:
        facts["on that base"] = _held_against(checkpoint, base)
    return Description(kind, facts, checkpoint.metadata.get("config", ""))


def _lora(tensors: Mapping[str, Tensor], rank: int, alpha: float, scale: float) -> str:
    layers = sum(key.endswith(A) for key in tensors)
    count = sum(tensor.numel() for key, tensor in tensors.items() if key.endswith((A, B)))
    return f"rank {rank}, alpha {alpha:g}, so scale {scale:g}; {layers} layers, {count:,} parameters"


def _fitting_base(checkpoint: Checkpoint) -> str:
    """Name the base by the shapes of the tensors, where the file does not say it."""
    keys = [key for key in checkpoint.unet if key.endswith(f"attn2.to_k{A}")]
    context = checkpoint.unet[keys[0]].shape[1] if keys else 0
    conv_in = checkpoint.unet.get("conv_in.weight")
    width, channels = conv_in.shape[:2] if conv_in is not None and conv_in.ndim == 4 else (0, 4)
    config = {
        "attention_head_dim": 0,
        "cross_attention_dim": context,
        "block_out_channels": [width],
        "in_channels": channels,
    }
    name = name_of_config(config) if width == 320 else ""
    return f"{name}, by the shapes of its tensors" if name else f"a base of its own (text width {context})"


def _held_against(checkpoint: Checkpoint, base: str | Path) -> str:
    """Say whether a checkpoint fits a base, and whether its conv_in is another."""
    parts = find_parts(base)
    try:
        check_fit(empty_network(parts["unet"]), checkpoint.unet)
        check_fit(empty_network(parts["vae"]), checkpoint.vae)
    except OSEDiffError as error:
        return str(error)
    conv_in = read_conv_in(base)
    trained = {key: t for key, t in checkpoint.unet.items() if not key.endswith((A, B))}
    gaps = [(trained[key].float() - t).abs().max().item() for key, t in conv_in.items() if key in trained]
    if not gaps:
        return "fits; conv_in is the base's"
    same = "is equal to the base's" if max(gaps) == 0 else f"differs from the base's by up to {max(gaps):.2g}"
    return f"fits; conv_in in full {same}{_low_rank_share(checkpoint)}"


def _decoder_held_against(place: Path, base: str | Path) -> str:
    vae = find_parts(base)["vae"]
    try:
        with_decoder(vae, place)
    except OSEDiffError as error:
        return str(error)
    return "fits"


def _low_rank_share(checkpoint: Checkpoint) -> str:
    if "conv_in" + A not in checkpoint.unet:
        return ""
    a, b = checkpoint.unet["conv_in" + A], checkpoint.unet["conv_in" + B]
    delta = lora_delta(a, b, checkpoint.scale_unet, torch.Size((len(b), *a.shape[1:])))
    return f", and its LoRA adds up to {delta.abs().max().item():.2g}"


def _training(metadata: Mapping[str, str]) -> dict[str, str]:
    said = {
        "trained": " ".join(filter(None, [_steps(metadata), metadata.get("date", "")])),
        "licence": metadata.get("licence", ""),
    }
    return {label: text or NOT_SAID for label, text in said.items()}


def _steps(metadata: Mapping[str, str]) -> str:
    return f"{metadata['steps']} steps" if metadata.get("steps") else ""


# ---- other files of ours ------------------------------------------------------------------------


def _export(file: TensorFile, part: str) -> Description:
    said = file.metadata
    what, where = {
        "unet": ("the UNet's part of an OSEDiff checkpoint", "LoraLoader of ComfyUI, from models/loras"),
        "vae": ("the VAE encoder's part of an OSEDiff checkpoint", "OSEDiff's nodes on ComfyUI's own VAE"),
    }[part]
    facts = {
        "for": said.get("base") or NOT_SAID,
        "used by": where,
        "LoRA": f"rank {said.get(f'rank_{part}', '?')}, alpha {said.get(f'alpha_{part}', '?')}",
    }
    if part == "unet":
        facts["conv_in"] = next((text for key, text in CONV_IN.items() if key in file.shapes), "LoRA alone")
    facts |= _training(said) | _storage(file)
    return Description(f"{what}, for ComfyUI", facts, said.get("config", ""))


def _tagger(file: TensorFile) -> Description:
    weights = read_tagger(file.path)
    facts = {"made from": weights.made_from or NOT_SAID, "tags": f"{len(weights.tags):,}"}
    return Description("a tagger of osediff convert-dape", facts | _storage(file))


# ---- files of others ----------------------------------------------------------------------------


def _foreign(file: TensorFile) -> tuple[str, str]:
    """Say what another's file is, and what takes it here, "" where nothing does."""
    keys = {key.removeprefix("model.") for key in file.shapes}
    if any(key.startswith(f"{SWIN}.") for key in keys):
        whole = any(key.startswith(f"{HEAD}.") and "lora_" not in key for key in keys)
        name = "RAM's weights (Recognize Anything)" if whole else "DAPE's weights, which go with RAM's"
        return name, "osediff convert-dape, which makes one small file of RAM and DAPE"
    name = name_of(file.shapes)
    if name == DECODER:
        return name, "--decoder; OSEDiff Loader, from models/osediff_decoder"
    if name != SD2:
        return f"{name}; no checkpoint and no base of OSEDiff", ""
    try:
        single_file_parts(file.path)
    except OSEDiffError as error:
        return str(error).removeprefix(f"{file.path} is "), ""
    return f"{BASE_SD21}, in one file", "--base, with --vocabulary; OSEDiff Loader, from models/checkpoints"


def _folder(place: Path) -> Description:
    merged = read_marker(place)
    if merged is not None:
        facts = {
            "made from": f"{merged.get('weights')} at strength {merged.get('strength')}",
            "for": "restoring without other weights",
            "stored": merged.get("dtype", NOT_SAID),
        }
        if "decoder" in merged:
            facts["decoder"] = merged["decoder"]
        if MEASURED in merged:
            facts["bfloat16"] = f"{merged[MEASURED]} dB from float32 at worst, on five small pictures"
        kind = "an OSEDiff model, its checkpoint merged into the base"
        return Description(kind, facts | _training(merged), merged.get("config", ""))
    missing = [name for name in FOLDERS if not (place / name).is_dir()]
    if missing == list(FOLDERS):
        raise OSEDiffError(f"{place} is a folder without a model: name a file in it, or a folder with a unet")
    if missing:
        return Description(f"a part of a model, which lacks {', '.join(missing)}")
    try:
        scheduler_config(place)
        parts = find_parts(place)
    except OSEDiffError as error:
        return Description(f"a model that cannot be a base: {error}")
    name = BASE_SD21 if name_of_config(parts["unet"].config) == SD2 else OWN_BASE
    facts = {}
    for part, source in parts.items():
        dtypes = Counter(file.dtype(key) for file in source.files for key in file.shapes)
        facts[part] = f"{_stored(dtypes)}, {_size(sum(file.path.stat().st_size for file in source.files))}"
    return Description(f"{name}, in the diffusers layout", facts)


def _first_keys(file: TensorFile) -> str:
    keys = sorted(file.shapes)
    return ", ".join(keys[:3]) + ", ..." * (len(keys) > 3)


def _storage(file: TensorFile) -> dict[str, str]:
    kinds = Counter(file.dtype(key) for key in file.shapes)
    return {"stored": _stored(kinds), "file": _written(file.path)}


def _stored(dtypes: Counter[torch.dtype]) -> str:
    kinds = [f"{n:,} of {str(kind)[6:]}" for kind, n in dtypes.most_common()]
    if len(kinds) == 1:
        return kinds[0].replace(" of ", " tensors of ")
    return f"{dtypes.total():,} tensors: {', '.join(kinds)}" if kinds else "no tensors"


def _written(place: Path) -> str:
    stat = place.stat()
    day = datetime.fromtimestamp(stat.st_mtime).astimezone().date().isoformat()
    return f"{_size(stat.st_size)}, written {day}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"

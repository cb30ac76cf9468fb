"""Tagger files: RAM's and DAPE's own, and the one small file that `osediff convert-dape` makes of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import OSEDiffError
from ..text_files import parse_json, read_text
from ..weights.checkpoint import save_tensors
from ..weights.tensorfile import TensorFile
from .ram import TagConfig, check_numbers, expected_shapes, fold_dape, is_unused, read_config

FORMAT, FORMAT_VERSION = "osediff-tagger", "1"
TAG_LIST, THRESHOLD_LIST = "ram_tag_list.txt", "ram_tag_list_threshold.txt"
"""How the lists are called in RAM's repository, and looked for beside its weights."""

MODEL = "model."


@dataclass(frozen=True)
class TaggerWeights:
    """A tagger on paper: tensors in RAM's naming with DAPE folded in, and what the logits mean.

    tags: a word for each of the N logits; thresholds: (N,) float32, above which its sigmoid means yes.
    """

    tensors: dict[str, Tensor]
    config: TagConfig
    tags: tuple[str, ...]
    thresholds: Tensor
    made_from: str = ""


def read_tagger(
    path: str | Path,
    dape: str | Path | None = None,
    *,
    tags: str | Path | None = None,
    thresholds: str | Path | None = None,
) -> TaggerWeights:
    """Read a file of `osediff convert-dape`, or RAM's weights with or without DAPE's; no code in one is run.

    tags, thresholds: RAM's two lists; by default ram_tag_list.txt and ram_tag_list_threshold.txt beside its
    weights. Raises OSEDiffError for a file that is missing, damaged, unsafe or of another kind, and where
    tags, thresholds and weights do not go together.
    """
    path = Path(path)
    file = _open(path)
    if file.metadata.get("format") == FORMAT:
        return _from_ours(file, (dape, tags, thresholds))
    words = _read_tags(_beside(path, tags, TAG_LIST))
    limits = _read_thresholds(_beside(path, thresholds, THRESHOLD_LIST))
    pairs = None if dape is None else _open(Path(dape))
    try:
        fold_dape(
            _tensors(file, file.blank), pairs and _tensors(pairs, pairs.blank)
        )  # finds what does not fit
        folded = fold_dape(_tensors(file, file.read), pairs and _tensors(pairs, pairs.read))
    except OSEDiffError as error:
        also = f" with {dape}" if dape else ""
        raise OSEDiffError(f"{path}{also} cannot be read as a tagger: {error}") from error
    made_from = " + ".join(Path(file).name for file in (path, dape) if file)
    return _checked(path, TaggerWeights(folded, read_config(folded), words, limits, made_from))


def write_tagger(path: str | Path, weights: TaggerWeights, dtype: torch.dtype = torch.float16) -> None:
    """Write all of a tagger into one .safetensors file, rounded to `dtype`, beside and then renamed."""
    rounded = {name: tensor.to(dtype) for name, tensor in weights.tensors.items()}
    lost = [name for name, tensor in rounded.items() if not tensor.isfinite().all()]
    if lost:
        raise OSEDiffError(f"{lost[0]} has values that {dtype} cannot hold: the weights are damaged")
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "image_size": str(weights.config.image_size),
        "label_heads": str(weights.config.label_heads),
        "tags": json.dumps(weights.tags, ensure_ascii=False),
        "thresholds": json.dumps([round(value, 6) for value in weights.thresholds.tolist()]),
        "made_from": weights.made_from,
    }
    save_tensors(path, rounded, metadata)


def _open(path: Path) -> TensorFile:
    if not path.exists():
        raise OSEDiffError(f"there is no tagger file {path}: check the path, or download the file first")
    file = TensorFile(path)
    if not file.shapes:
        raise OSEDiffError(f"{path} holds something else than named tensors: give RAM's or DAPE's file")
    return file


def _tensors(file: TensorFile, get: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Return the tensors that `get` gives, without what tagging does not need.

    Training put the weights in a "model", and the optimizer's state and its own settings beside it.
    """
    model = any(key.startswith(MODEL) for key in file.shapes)
    keys = [key for key in file.shapes if key.startswith(MODEL)] if model else list(file.shapes)
    return {key.removeprefix(MODEL): get(key) for key in keys if not is_unused(key.removeprefix(MODEL))}


def _from_ours(file: TensorFile, besides: tuple[object, ...]) -> TaggerWeights:
    path, metadata = file.path, file.metadata
    if any(besides):
        raise OSEDiffError(f"{path} has DAPE, tags and thresholds in it already: leave the other files out")
    if metadata.get("format_version") != FORMAT_VERSION:
        raise OSEDiffError(
            f"{path} has format version {metadata.get('format_version')}, but this program reads "
            f"{FORMAT_VERSION}: update the program"
        )
    if not metadata.get("tags") or not metadata.get("thresholds"):
        raise OSEDiffError(f"{path} has no tags or no thresholds in its metadata: make it again")
    try:
        sizes = int(metadata["image_size"]), int(metadata["label_heads"])
        config = read_config({key: file.blank(key) for key in file.shapes}, *sizes)
        words = tuple(str(word) for word in parse_json(metadata["tags"]))
        values = [float(value) for value in parse_json(metadata["thresholds"])]
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise OSEDiffError(
            f"{path} is damaged ({error}): make it again with `osediff convert-dape`"
        ) from error
    if file.shapes != expected_shapes(config):
        raise OSEDiffError(f"{path} is damaged: its tensors are not those of a tagger; make it again")
    check_numbers({key: file.blank(key) for key in file.shapes})
    thresholds, tensors = _thresholds(values, path), {key: file.read(key) for key in file.shapes}
    return _checked(path, TaggerWeights(tensors, config, words, thresholds, metadata.get("made_from", "")))


def _checked(path: Path, weights: TaggerWeights) -> TaggerWeights:
    """Raise OSEDiffError unless every logit has its word and its threshold."""
    counts = (len(weights.tags), len(weights.thresholds), weights.config.tags)
    if len(set(counts)) > 1:
        raise OSEDiffError(
            f"{path} gives {counts[2]} logits, but there are {counts[0]} tags and {counts[1]} thresholds: "
            "take the lists that belong to these weights"
        )
    return weights


def _beside(weights: Path, given: str | Path | None, name: str) -> Path:
    """Return the list to read; OSEDiffError, saying where it is looked for, if there is none."""
    place = weights.with_name(name) if given is None else Path(given)
    if not place.is_file():
        raise OSEDiffError(
            f"there is no {place}: RAM's weights come without their tags, so get {name} from ram/data in "
            "RAM's repository and put it beside them, or give its path"
        )
    return place


def _read_tags(path: Path) -> tuple[str, ...]:
    tags = tuple(_lines(path))
    if not tags or not all(tags):
        raise OSEDiffError(f"{path} has no tags, or empty lines between them: get the list again")
    return tags


def _read_thresholds(path: Path) -> Tensor:
    """Return the thresholds (N,), float32."""
    try:
        values = [float(line) for line in _lines(path)]
    except ValueError as error:
        raise OSEDiffError(f"{path} has a line that is no number ({error}): get the list again") from error
    return _thresholds(values, path)


def _thresholds(values: list[float], path: Path) -> Tensor:
    if not values or not all(math.isfinite(value) and 0 <= value <= 1 for value in values):
        raise OSEDiffError(f"{path} should hold thresholds from 0 to 1, one in a line: get the list again")
    return torch.tensor(values)


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in read_text(path).strip().splitlines()]
    except (OSError, ValueError) as error:
        raise OSEDiffError(f"{path} cannot be read as text ({error}): get the list again") from error

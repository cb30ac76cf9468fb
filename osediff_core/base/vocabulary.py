"""The tokenizer of Stable Diffusion 2, from wherever the user already has its vocabulary.

A single-file checkpoint carries none. Every CLIP text encoder has the same one, so that of ComfyUI, of any
Stable Diffusion in the hub's cache or of the open_clip package serves as well; none is shipped or downloaded.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import limits
from ..errors import OSEDiffError, first_line
from ..text_files import parse_json, read_text
from ..whole_files import writing
from .network import import_transformers

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

FILES = ("vocab.json", "merges.txt")
START, END, PAD = "<|startoftext|>", "<|endoftext|>", "!"
SIZE = 49408  # 512 bytes, at a word's end and within one, 48,894 merges and two special tokens
LENGTH = 77
PACKAGED = "bpe_simple_vocab_16e6.txt.gz"


def sd2_tokenizer(folder: str | Path | None = None) -> CLIPTokenizer:
    """Return Stable Diffusion 2's tokenizer: CLIP's words, cut at 77 tokens, padded with "!" (id 0).

    folder: where vocab.json and merges.txt are, or None to look in the hub's cache and in open_clip. Raises
    OSEDiffError if there is no vocabulary, or another one.
    """
    for place in [Path(folder)] if folder is not None else _places():
        found = _read(place)
        if found is not None:
            return _tokenizer(*found, place)
    asked = f"the folder {folder} has none" if folder is not None else "none was found on this computer"
    raise OSEDiffError(
        f"a single-file base needs CLIP's vocabulary (vocab.json and merges.txt), and {asked}: name the "
        "tokenizer folder of any Stable Diffusion (osediff --vocabulary FOLDER, in Python vocabulary=), "
        "install open_clip_torch, or run `osediff fetch vocabulary`"
    )


def _places() -> Iterator[Path]:
    """Yield where a vocabulary may be: the hub's cache, then the packages that ship one."""
    from .hub_cache import snapshots

    for snapshot in snapshots():
        yield snapshot / "tokenizer"
        yield snapshot
    for package in ("open_clip", "clip"):
        spec = find_spec(package)
        for place in (spec and spec.submodule_search_locations) or ():
            yield Path(place) / PACKAGED


def _read(place: Path) -> tuple[dict[str, int], list[str]] | None:
    """Return ids by token, and the merges, or None where `place` is no CLIP vocabulary."""
    try:
        if place.name == PACKAGED:
            with gzip.open(place) as packed:
                return _from_merges(packed.read(limits.TEXT_BYTES).decode("utf-8"))
        folder = place if (place / FILES[0]).is_file() else place / "tokenizer"
        vocabulary = parse_json(read_text(folder / FILES[0]))
        merges = _lines(read_text(folder / FILES[1]))
    except (OSError, ValueError, EOFError, zlib.error):
        return None
    return (vocabulary, merges) if _is_clip(vocabulary, merges) else None


def _is_clip(vocabulary: object, merges: list[str]) -> bool:
    """Return whether a vocabulary is CLIP's in its size and ends, and has both halves of every merge."""
    if not isinstance(vocabulary, dict) or (vocabulary.get(PAD), vocabulary.get(END)) != (0, SIZE - 1):
        return False
    if not all(type(number) is int for number in vocabulary.values()):
        return False
    pairs = [merge.split() for merge in merges]
    halves = {half for pair in pairs for half in pair} | {"".join(pair) for pair in pairs}
    return (
        {*vocabulary.values()} == {*range(SIZE)}
        and all(len(pair) == 2 for pair in pairs)
        and halves <= vocabulary.keys()
    )


def _lines(text: str) -> list[str]:
    """Return the merges of a merges.txt: pairs of tokens, without the line that tells the version."""
    lines = text.strip().split("\n")
    return lines[1:] if lines[0].startswith(("#version", '"bpe_simple_vocab')) else lines


def _from_merges(text: str) -> tuple[dict[str, int], list[str]] | None:
    """Give the tokens CLIP's numbers: bytes, bytes that end a word, merges, the two special ones.

    The packaged file has more merges than CLIP uses, so it is cut at CLIP's number of tokens.
    """
    letters = byte_letters()
    merges = _lines(text)[: SIZE - 2 * len(letters) - 2]
    words = ["".join(merge.split()) for merge in merges]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *words, START, END]
    return ({token: i for i, token in enumerate(tokens)}, merges) if len(tokens) == SIZE else None


def byte_letters() -> list[str]:
    """Return the letter that stands for each byte, in CLIP's order: printable ones, then the others."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def _tokenizer(vocabulary: dict[str, int], merges: list[str], place: Path) -> CLIPTokenizer:
    """Make the tokenizer by way of files, which every version of transformers reads alike."""
    texts = {FILES[0]: json.dumps(vocabulary), FILES[1]: "\n".join(["#version: 0.2", *merges, ""])}
    settings = {
        "model_max_length": LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": PAD,
    }
    tokenizer = tokenizer_of(texts, place, settings)
    if tokenizer.pad_token_id != 0 or tokenizer.eos_token_id != SIZE - 1:
        raise OSEDiffError(f"the vocabulary in {place} is not CLIP's: name another tokenizer folder")
    return tokenizer


def tokenizer_of(texts: Mapping[str, str], place: Path, settings: Mapping[str, Any]) -> CLIPTokenizer:
    """Return the tokenizer that these files, name to text, make; OSEDiffError with `place` for none."""
    library = import_transformers("CLIPTokenizer")
    with tempfile.TemporaryDirectory(prefix="osediff-") as folder:
        with writing(Path(folder)):
            for name, text in texts.items():
                Path(folder, name).write_text(text, encoding="utf-8")
        try:
            return library.CLIPTokenizer.from_pretrained(folder, local_files_only=True, **settings)
        except Exception as error:  # a damaged vocabulary is a bare Exception of the tokenizers library
            raise OSEDiffError(f"{place} is missing or damaged: {first_line(error)}") from error

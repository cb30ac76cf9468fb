"""A byte-level CLIP tokenizer and a tiny text encoder: a vocabulary that needs no training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from osediff_core.whole_files import write_whole, writing

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

MAX_TOKENS = 77
"""Tokens per prompt, start and end included (as for Stable Diffusion)."""
PAD, START, END = "!", "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """Return the printable stand-ins of the 256 bytes that CLIP's tokenizer uses, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def write_tokenizer(folder: Path) -> None:
    """Write vocab.json, merges.txt and the configs of a tokenizer that spells every word in bytes."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    symbols = [PAD, *(s for s in byte_symbols() if s != PAD)]  # "!" pads, and is id 0
    words = [*symbols, *(s + "</w>" for s in symbols), START, END]
    numbered = json.dumps({w: i for i, w in enumerate(words)}, ensure_ascii=False)
    write_whole(folder / "vocab.json", numbered.encode())
    write_whole(folder / "merges.txt", b"#version: 0.2\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": PAD}
    write_whole(folder / "special_tokens_map.json", json.dumps(special, indent=2).encode())
    config = {**special, "model_max_length": MAX_TOKENS, "tokenizer_class": "CLIPTokenizer"}
    write_whole(folder / "tokenizer_config.json", json.dumps(config, indent=2).encode())


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Read the tokenizer back through transformers, as every user of the base will."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder)


def build_text_encoder(width: int, layers: int) -> CLIPTextModel:
    """Build the untrained text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=2 * 256 + 2,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="gelu",
            bos_token_id=512,
            eos_token_id=513,
            pad_token_id=0,
        )
    )

"""Files of RAM's and DAPE's names and full-size shapes, with random weights.

RAM's file has what tagging needs, the tables of its windows, two networks for captions that tagging leaves
out and, as published, what its optimizer kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from osediff_core.prompts.ram import HEAD, SWIN, expected_shapes
from osediff_core.prompts.tagger_file import TAG_LIST, THRESHOLD_LIST
from osediff_core.tools.cost import RAM as FULL

Shapes = dict[str, tuple[int, ...]]

VOCABULARY, BERT_LAYERS = 30524, 12
RANK = 8


def ram_shapes() -> Shapes:
    """RAM: what tagging needs, the tables of its windows, and the two networks for captions."""
    return {
        **expected_shapes(FULL),
        **_tables(),
        **_bert("tag_encoder.", 512),
        **_bert("text_decoder.bert.", 768),
        "text_decoder.cls.predictions.bias": (VOCABULARY,),
        **_pair("text_decoder.cls.predictions.transform.dense", 768, 768),
        **_pair("text_decoder.cls.predictions.transform.LayerNorm", 768),
        **_pair("text_decoder.cls.predictions.decoder", VOCABULARY, 768),
    }


def dape_shapes() -> Shapes:
    """DAPE: low-rank pairs on queries and keys, and in the Swin transformer on queries and values."""
    shapes: Shapes = {}
    for stage, depth in enumerate(FULL.depths):
        dim = FULL.embed * 2**stage
        for block in range(depth):
            name = f"{SWIN}.layers.{stage}.blocks.{block}.attn.qkv"
            shapes |= {f"{name}.lora_A": (2 * RANK, dim), f"{name}.lora_B": (2 * dim, RANK)}
    for prefix, width in (("tag_encoder.", 512), ("text_decoder.bert.", 768)):
        for layer in range(BERT_LAYERS):
            shapes |= _lora(f"{prefix}encoder.layer.{layer}.attention.self", 768)
            shapes |= _lora(f"{prefix}encoder.layer.{layer}.crossattention.self", width)
    for layer in range(FULL.layers):
        shapes |= _lora(f"{HEAD}.{layer}.crossattention.self", 512)
    return shapes


def _pair(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _lora(name: str, key_width: int) -> Shapes:
    return {
        f"{name}.query.lora_A": (RANK, 768),
        f"{name}.query.lora_B": (768, RANK),
        f"{name}.key.lora_A": (RANK, key_width),
        f"{name}.key.lora_B": (768, RANK),
    }


def _tables() -> Shapes:
    tokens = FULL.window**2
    shapes: Shapes = {}
    for stage, depth in enumerate(FULL.depths):
        windows = (FULL.image_size // 4 // 2**stage // FULL.window) ** 2
        for block in range(depth):
            name = f"{SWIN}.layers.{stage}.blocks.{block}"
            shapes[f"{name}.attn.relative_position_index"] = (tokens, tokens)
            if block % 2 and windows > 1:  # every second block shifts its windows
                shapes[f"{name}.attn_mask"] = (windows, tokens, tokens)
    return shapes


def _bert(prefix: str, key_width: int) -> Shapes:
    shapes = {
        f"{prefix}embeddings.position_ids": (1, 512),
        f"{prefix}embeddings.word_embeddings.weight": (VOCABULARY, 768),
        f"{prefix}embeddings.position_embeddings.weight": (512, 768),
        **_pair(f"{prefix}embeddings.LayerNorm", 768),
    }
    for layer in range(BERT_LAYERS):
        name = f"{prefix}encoder.layer.{layer}"
        for attention, width in (("attention", 768), ("crossattention", key_width)):
            shapes |= _pair(f"{name}.{attention}.self.query", 768, 768)
            shapes |= _pair(f"{name}.{attention}.self.key", 768, width)
            shapes |= _pair(f"{name}.{attention}.self.value", 768, width)
            shapes |= _pair(f"{name}.{attention}.output.dense", 768, 768)
            shapes |= _pair(f"{name}.{attention}.output.LayerNorm", 768)
        shapes |= _pair(f"{name}.intermediate.dense", 3072, 768)
        shapes |= _pair(f"{name}.output.dense", 768, 3072)
        shapes |= _pair(f"{name}.output.LayerNorm", 768)
    return shapes


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Return float32 tensors of these shapes: norms are the identity, the rest is as BERT begins."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, shape in shapes.items():
        if "norm" in key.lower():
            tensors[key] = torch.full(shape, float(key.endswith("weight")))
        else:
            tensors[key] = torch.randn(shape, generator=generator) * 0.02
    return tensors


def write_files(folder: Path, optimizer: bool = True) -> tuple[Path, Path]:
    """Write RAM's file with its two lists beside it, and DAPE's; returns the paths of the two.

    optimizer: with what an optimizer keeps of each tensor, as published; here that is zeros.
    """
    ram, dape = folder / "ram_swin_large_14m.pth", folder / "DAPE.pth"
    content: dict[str, object] = {"model": random_tensors(ram_shapes(), 0)}
    if optimizer:
        shapes = enumerate(ram_shapes().values())
        kept = {i: {name: torch.zeros(s) for name in ("exp_avg", "exp_avg_sq")} for i, s in shapes}
        content |= {"optimizer": {"state": kept}, "config": {"image_size": FULL.image_size}, "epoch": 9}
    torch.save(content, ram)
    torch.save(random_tensors(dape_shapes(), 1), dape)
    (folder / TAG_LIST).write_text("\n".join(f"tag {i}" for i in range(FULL.tags)))
    (folder / THRESHOLD_LIST).write_text("0.5\n" * FULL.tags)
    return ram, dape

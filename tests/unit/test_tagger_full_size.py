"""RAM and DAPE at full size: every key of their files has its place; and, slow, from file to tags."""

import math

import pytest
import torch

from osediff_core.cli import main
from osediff_core.cost import RAM as FULL
from osediff_core.prompts.ram import HEAD, SWIN, expected_shapes, fold_dape
from osediff_core.prompts.tagger import Tagger

VOCABULARY, BERT_LAYERS = 30524, 12
RANK = 8


def ram_shapes():
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


def dape_shapes():
    """DAPE: low-rank pairs on queries and keys, and in the Swin transformer on queries and values."""
    shapes = {}
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


def _pair(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _lora(name, key_width):
    return {
        f"{name}.query.lora_A": (RANK, 768),
        f"{name}.query.lora_B": (768, RANK),
        f"{name}.key.lora_A": (RANK, key_width),
        f"{name}.key.lora_B": (768, RANK),
    }


def _tables():
    tokens = FULL.window**2
    shapes = {}
    for stage, depth in enumerate(FULL.depths):
        windows = (FULL.image_size // 4 // 2**stage // FULL.window) ** 2
        for block in range(depth):
            name = f"{SWIN}.layers.{stage}.blocks.{block}"
            shapes[f"{name}.attn.relative_position_index"] = (tokens, tokens)
            if block % 2 and windows > 1:  # every second block shifts its windows
                shapes[f"{name}.attn_mask"] = (windows, tokens, tokens)
    return shapes


def _bert(prefix, key_width):
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


def test_every_key_of_both_files_is_known():
    """On the meta device: 1042 names of RAM and 248 of DAPE, of which what tags need comes out."""
    ram, dape = ram_shapes(), dape_shapes()
    assert (len(ram), len(dape)) == (1042, 248)
    with torch.device("meta"):
        tensors = [{key: torch.empty(shape) for key, shape in part.items()} for part in (ram, dape)]
        folded = fold_dape(*tensors)
    assert {key: tuple(tensor.shape) for key, tensor in folded.items()} == expected_shapes(FULL)
    assert sum(math.prod(shape) for shape in expected_shapes(FULL).values()) == 212_117_045


@pytest.mark.slow
def test_the_files_become_one_that_tags(tmp_path):
    """As a user does it; 2 GB are written, and as much memory is needed."""
    generator = torch.Generator().manual_seed(0)

    def fill(shapes):
        return {key: torch.randn(shape, generator=generator) * 0.02 for key, shape in shapes.items()}

    torch.save({"model": fill(ram_shapes())}, tmp_path / "ram.pth")
    torch.save(fill(dape_shapes()), tmp_path / "dape.pth")
    (tmp_path / "ram_tag_list.txt").write_text("\n".join(f"tag {i}" for i in range(FULL.tags)))
    (tmp_path / "ram_tag_list_threshold.txt").write_text("0.5\n" * FULL.tags)
    out = tmp_path / "tagger.safetensors"
    assert main(["convert-dape", str(tmp_path / "ram.pth"), str(tmp_path / "dape.pth"), str(out)]) == 0
    assert 0.4e9 < out.stat().st_size < 0.45e9
    picture = torch.rand(1, 3, 200, 300, generator=generator)
    converted = Tagger.from_pretrained(out, device="cpu").logits(picture)
    exact = Tagger.from_pretrained(tmp_path / "ram.pth", tmp_path / "dape.pth", device="cpu").logits(picture)
    assert exact.std() > 1e-4
    assert (converted - exact).abs().max() < 0.05 * exact.std() + 1e-3

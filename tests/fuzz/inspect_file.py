"""Fuzz `osediff inspect`, and the reader of taggers: a file of any kind, told as a person sees it."""

from pathlib import Path

from target import refusable, run, watched

with watched():
    from osediff_core.commands.inspect import told
    from osediff_core.prompts.tagger_file import read_tagger
    from osediff_core.tools.describe import describe

import safetensors_file
import torch_file


def read(path: Path) -> None:
    """Describe a file, and read it as a tagger."""
    refusable(lambda: read_tagger(path))
    text = told(str(path), describe(path), config=True)
    assert all(line.isprintable() for line in text.split("\n")), text


if __name__ == "__main__":
    tagger = {"format": "osediff-tagger", "format_version": "1", "image_size": "384", "label_heads": "4"}
    lists = {"tags": '["a"]', "thresholds": "[0.5]"}
    names = ("visual_encoder.patch_embed.norm.weight", "label_embed", "wordvec_proj.weight",
             "visual_encoder.layers.0.blocks.0.attn.relative_position_bias_table",
             "tagging_head.encoder.layer.0.intermediate.dense.weight")  # fmt: skip
    own = safetensors_file.seed(tagger | lists, *names)
    run(read, [own, *safetensors_file.SEEDS, *torch_file.seeds()], "x")

"""`python -m train.bundle BASE CHECKPOINT OUT`: store a base and a checkpoint in float16, for shipping."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from osediff_core.base.folder import write_network
from osediff_core.base.load import load_base
from osediff_core.base.text import write_empty_prompt
from osediff_core.commands.console import show
from osediff_core.errors import OSEDiffError
from osediff_core.pipeline.runtime import converted
from osediff_core.weights.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from osediff_core.whole_files import write_whole, writing

from ..programs.console import refuse, start_console


def halve(checkpoint: Checkpoint, base: str) -> Checkpoint:
    """Return the same checkpoint with float16 tensors, named after the base that it is shipped with."""

    def to_half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: tensor.half() for key, tensor in tensors.items()}

    metadata = {**checkpoint.metadata, "base": base}
    return dataclasses.replace(
        checkpoint, unet=to_half(checkpoint.unet), vae=to_half(checkpoint.vae), metadata=metadata
    )


def forget_origin(config: Path) -> None:
    """Take out where the part was loaded from, which transformers writes into its config."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("_name_or_path", None)
    write_whole(config, (json.dumps(settings, indent=2) + "\n").encode())


def bundle(base: Path, weights: Path, out: Path) -> int:
    """Write OUT/base and OUT/osediff_demo.safetensors; returns their size in bytes."""
    parts = load_base(base, torch.float16)
    encoder, tokenizer = parts.load_text()
    checkpoint = halve(read_checkpoint(weights), "the bundled demo base")
    write_network(out / "base" / "unet", parts.unet)
    write_network(out / "base" / "vae", parts.vae)
    with writing(out):
        encoder.save_pretrained(out / "base" / "text_encoder")
        forget_origin(out / "base" / "text_encoder" / "config.json")
        for name in ("tokenizer", "scheduler"):
            shutil.copytree(base / name, out / "base" / name, dirs_exist_ok=True)
        shutil.copy(base / "model_index.json", out / "base")
        with converted(encoder, torch.float32):
            write_empty_prompt(out / "base", tokenizer, encoder)
    write_checkpoint(out / "osediff_demo.safetensors", checkpoint)
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


def main() -> int:
    """Parse the command line and bundle."""
    parser = argparse.ArgumentParser(prog="python -m train.bundle", description=__doc__)
    for name in ("base", "weights", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    start_console()
    try:
        size = bundle(args.base, args.weights, args.out)
    except OSEDiffError as error:
        return refuse(error)
    show(f"{args.out}: {size / 1e6:.1f} MB")
    return 0

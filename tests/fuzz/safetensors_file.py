"""Fuzz the reader of .safetensors files: header, bounds, and every tensor in it."""

import json
import struct
from pathlib import Path

from target import refusable, run, watched

with watched():
    from osediff_core.weights.checkpoint import layout_of, read_checkpoint
    from osediff_core.weights.recognise import name_of
    from osediff_core.weights.tensorfile import TensorFile


def read(path: Path) -> None:
    """Read a file as it is, and with the length that its header has."""
    content = path.read_bytes()
    refusable(lambda: read_whole(path))
    header = content[8 : content.rfind(b"}") + 1]
    mended = path.with_name("mended.safetensors")
    mended.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    read_whole(mended)


def read_whole(path: Path) -> None:
    """Read all of a file, and what is made of it."""
    file = TensorFile(path)
    name_of(file.shapes)
    for key in file.shapes:
        file.read(key)
    if layout_of(file) is not None:
        read_checkpoint(path)


def seed(said: dict[str, str], *names: str) -> bytes:
    """Return a file of tensors of one number, each by a name."""
    header: dict[str, object] = {"__metadata__": said}
    for i, name in enumerate(names):
        header[name] = {"dtype": "F32", "shape": [1, 1], "data_offsets": [4 * i, 4 * i + 4]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4 * len(names))


SAID = {"format": "osediff", "format_version": "1"} | {
    f"{what}_{part}": "1" for what in ("rank", "alpha") for part in ("unet", "vae")
}
PAIRS = [f"{part}.a.lora_{side}.weight" for part in ("unet", "vae") for side in "AB"]
ENDS = ("lora_down.weight", "lora_up.weight", "alpha")
KOHYA = [f"lora_{part}_a.{end}" for part in ("unet", "vae") for end in ENDS]
SEEDS = [
    seed(SAID, *PAIRS),
    seed({}, *PAIRS),
    seed({}, *KOHYA),
    seed(SAID, *(f"module.ema.{name}" for name in PAIRS)),
    seed({}, "model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.x"),
]

if __name__ == "__main__":
    run(read, SEEDS, "x.safetensors")

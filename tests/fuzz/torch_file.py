"""Fuzz the reader of torch's files: zip, old layout, pickle, and every tensor in it."""

import io
from pathlib import Path

from target import run, watched

with watched():
    from osediff_core.weights.checkpoint import layout_of, read_checkpoint
    from osediff_core.weights.tensorfile import TensorFile


def read(path: Path) -> None:
    """Read all of a file, and what is made of it."""
    file = TensorFile(path)
    for key in file.shapes:
        file.read(key)
    if layout_of(file) is not None:
        read_checkpoint(path)


def seeds() -> list[bytes]:
    """Return what torch writes in both of its layouts."""
    import torch

    part = {f"a.lora_{side}.first.weight": torch.ones(1, 1) for side in "AB"}
    contents = [
        {"state_dict_unet": part, "state_dict_vae": part, "rank_unet": 1, "rank_vae": 1},
        {"state_dict": {"a": torch.ones(2, 3).t(), "b": torch.nn.Parameter(torch.ones(1))}, "step": 3},
        {"a": torch.ones(1).to(torch.float8_e4m3fn), "b": [1, 2.5, None, (3, "x")]},
    ]
    found = []
    for content in contents:
        for layout in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=layout)
            found.append(file.getvalue())
    return found


if __name__ == "__main__":
    run(read, seeds(), "x.pkl")

"""Fuzz the readers of lists and of the trainer's TOML."""

from pathlib import Path

from target import refusable, run, watched

with watched():
    from osediff_core.prompts.tagger_file import read_tagger

from safetensors_file import seed

from train.config import TrainConfig
from train.programs.tables import read_config


def read(path: Path) -> None:
    """Read one file as TOML, and as the two lists of a tagger."""
    refusable(lambda: read_config(TrainConfig, path))
    weights = path.with_name("ram.safetensors")
    weights.write_bytes(seed({}, "x"))
    read_tagger(weights, tags=path, thresholds=path)


if __name__ == "__main__":
    run(read, [b'[model]\nbase = "x"\n[run]\nsteps = 1\n', b"0.5\n1\n", b"\xef\xbb\xbfa\r\nb\r\n"], "x.toml")

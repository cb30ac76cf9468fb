"""What a picture costs from the shell beside its arithmetic: imports, loading, reading, writing.

    OMP_NUM_THREADS=1 python -m benchmarks.start [--size 128x128] [--rounds 3]

Processor seconds of programs, each a process of its own, the least of several, in one run: PyTorch's import
alone, `osediff --help`, and one picture of the demo without and with a prompt, which needs text encoder and
tokenizer. The arithmetic is that of the same picture in a process that has restored one before.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.layouts import processor_seconds
from osediff_core import OSEDiff, restore, write_image

OSEDIFF = ("-m", "osediff_core")


def program_seconds(arguments: Sequence[str], rounds: int) -> float:
    """Return the least processor seconds of `python ARGUMENTS`; SystemExit where it fails."""
    found = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"python {' '.join(arguments)} failed: {done.stderr}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def measure(height: int, width: int, rounds: int) -> dict[str, float]:
    """Return processor seconds by what they are of."""
    lq = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    run = partial(restore, OSEDiff.from_pretrained(device="cpu", dtype="float32"), lq)
    run()
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "lq.png")
        write_image(picture, lq)
        one = (*OSEDIFF, str(picture), str(Path(folder, "sr.png")), "--overwrite", "--device", "cpu")
        return {
            "import torch": program_seconds(("-c", "import torch"), rounds),
            "osediff --help": program_seconds((*OSEDIFF, "--help"), rounds),
            "its arithmetic": min(processor_seconds(run)[0] for _ in range(rounds)),
            "one picture": program_seconds(one, rounds),
            "one picture, with a prompt": program_seconds((*one, "--prompt", "a cat"), rounds),
        }


def main() -> None:
    """Print them, and what a picture costs beside PyTorch's import and its arithmetic."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", default="128x128", help="width x height of the picture")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    found = measure(height, width, args.rounds)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| | processor, s |\n|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {seconds:.2f} |")
    beside = (found["one picture"] - found["its arithmetic"]) / found["import torch"]
    print(f"\nBeside its arithmetic, one picture takes {beside:.2f} of PyTorch's import.")


if __name__ == "__main__":
    main()

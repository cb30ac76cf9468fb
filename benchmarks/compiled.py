"""What `torch.compile` gains on a processor, and what it takes first.

    OMP_NUM_THREADS=1 python -m benchmarks.compiled [--base BASE --weights FILE] [--size 128x128] [--rounds 3]

A picture of that size is restored four times enlarged, as the model is and compiled, in one process: seconds
of the first, which compiles, and the processor's of those after it, the least of several. Without --base and
--weights it is the demo.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.layouts import processor_seconds
from osediff_core import OSEDiff, restore


@dataclass(frozen=True)
class Found:
    """Seconds of the first picture by the clock, and the processor's of one after it; how far it is off."""

    first: float
    after: float
    difference: float


def compare(options: Mapping[str, Any], height: int, width: int, rounds: int) -> tuple[Found, Found]:
    """Return what restoring takes as the model is, and compiled; SystemExit where it cannot be."""
    lq = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    found, pictures = [], []
    for compiled in (False, True):
        model = OSEDiff.from_pretrained(dtype="float32", device="cpu", compile=compiled, **options)
        run = partial(restore, model, lq)
        start = time.perf_counter()
        pictures.append(run())
        first = time.perf_counter() - start
        after = min(processor_seconds(run)[0] for _ in range(rounds))
        if compiled and model.unet._compiled_call_impl is None:
            raise SystemExit("compiling failed here, and the model went on as it was")
        found.append(Found(first, after, (pictures[-1] - pictures[0]).abs().max().item()))
    return found[0], found[1]


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--base", help="default, without --weights: the demo")
    parser.add_argument("--weights")
    parser.add_argument("--vocabulary")
    parser.add_argument("--size", default="128x128", help="width x height of the picture")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    options = {name: getattr(args, name) for name in ("base", "weights", "vocabulary")}
    width, height = map(int, args.size.split("x"))
    as_it_is, compiled = compare(options, height, width, args.rounds)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| | first, s | after it, processor, s | largest difference |\n|---|---|---|---|")
    for name, found in (("as it is", as_it_is), ("compiled", compiled)):
        print(f"| {name} | {found.first:.1f} | {found.after:.2f} | {found.difference:.1e} |")
    print(f"\nCompiled takes {compiled.after / as_it_is.after:.2f} of the time.")


if __name__ == "__main__":
    main()

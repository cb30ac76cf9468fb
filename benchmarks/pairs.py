"""Ours and the published way in turn, in one process: the ratio of their processor seconds, pair by pair.

    python -m benchmarks.pairs FOLDER [--size 512x512] [--pairs 6] [--dtype float32]

FOLDER gets a base of 2.6 GB for the run; both models are loaded, 11 GB in float32. The first pair warms up
and does not count. Which way begins changes from pair to pair, so that a machine whose speed drifts does it
to both. Rows of `benchmarks.speed` lie minutes apart instead, and have their peaks.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.full_size import build
from benchmarks.speed import FORM, Setting, runner
from osediff_core.color import to_levels

PAIR = ("ours", "published")


def processor_seconds(run: Callable[[Tensor], Tensor], lq: Tensor) -> float:
    """Return what one call takes of the processor, in all its threads."""
    start = time.process_time()
    run(lq)
    return time.process_time() - start


def ratios(base: Path, size: str, dtype: str, pairs: int) -> list[tuple[float, float]]:
    """Measure and print the pairs after the first; returns processor seconds, ours and published."""
    settings = {way: Setting(way, size, 1, "cpu", dtype) for way in PAIR}
    height, width = settings["ours"].shape
    g = torch.Generator().manual_seed(0)
    lq = to_levels(torch.rand(1, 3, height // 4, width // 4, generator=g))
    runs = {way: runner(setting, base) for way, setting in settings.items()}
    found = []
    for number in range(pairs + 1):
        order = PAIR if number % 2 else PAIR[::-1]
        seconds = {way: processor_seconds(runs[way], lq) for way in order}
        if number:
            found.append((seconds["ours"], seconds["published"]))
            print("| {} | {:.1f} | {:.1f} | {:.2f} |".format(number, *found[-1], found[-1][0] / found[-1][1]))
    return found


def main() -> None:
    """Print a line for each pair, and the ratio of the sums."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", default="512x512", help="of the output, width x height")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    build(FORM, args.folder)
    print(f"{args.size}, {args.dtype}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| pair | ours, s | published, s | ratio |\n|---|---|---|---|")
    try:
        found = ratios(args.folder / FORM, args.size, args.dtype, args.pairs)
    finally:
        shutil.rmtree(args.folder / FORM)
    ours, published = map(sum, zip(*found, strict=True))
    print(f"| all | {ours:.1f} | {published:.1f} | {ours / published:.2f} |")


if __name__ == "__main__":
    main()

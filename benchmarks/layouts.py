"""Processor time of the VAE and the UNet by memory layout, page size and number format, side by side.

    python -m benchmarks.layouts [--size 512] [--rounds 3]

Networks of full size with random weights on the CPU, float32 where the row says nothing else, one row a
process of its own, because PyTorch reads its switch for huge pages once. Seconds are of the processor, the
system's part apart, the least of the rounds after the first: they say more than wall time where a machine
does other work too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable

import torch

from benchmarks.random_base import empty, random_weights
from osediff_core.device.huge_pages import SWITCH

WAYS = {
    "4 KB pages": ("0", torch.contiguous_format, torch.float32),
    "4 KB pages, channels_last": ("0", torch.channels_last, torch.float32),
    "huge pages": ("1", torch.contiguous_format, torch.float32),
    "huge pages, channels_last": ("1", torch.channels_last, torch.float32),
    "huge pages, bfloat16": ("1", torch.contiguous_format, torch.bfloat16),
    "huge pages, bfloat16, channels_last": ("1", torch.channels_last, torch.bfloat16),
}
WORKS = ("encode", "denoise", "decode")


def works(size: int, layout: torch.memory_format, dtype: torch.dtype, work: str) -> Callable[[], object]:
    """Return one part's work on a picture of `size` x `size`, ready to be called."""
    part = "unet" if work == "denoise" else "vae"
    network = empty(part)
    network.load_state_dict(random_weights(part, torch.float32), assign=True)
    network = network.eval().to(dtype).to(memory_format=layout)
    g = torch.Generator().manual_seed(1)
    latent = torch.randn(1, 4, size // 8, size // 8, generator=g)
    text = torch.randn(1, 77, 1024, generator=g)
    image = torch.rand(1, 3, size, size, generator=g)
    latent, text, image = latent.to(dtype), text.to(dtype), image.to(dtype)
    return {
        "encode": lambda: network.encode(image),
        "denoise": lambda: network(latent, torch.tensor([999]), text),
        "decode": lambda: network.decode(latent),
    }[work]


def processor_seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Return what a call takes of the processor, in seconds: all of it, and the system's part."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    run()
    after = resource.getrusage(resource.RUSAGE_SELF)
    system = after.ru_stime - before.ru_stime
    return after.ru_utime - before.ru_utime + system, system


@torch.inference_mode()
def child(args: argparse.Namespace) -> None:
    """Measure one way's works and write them to standard output."""
    found: dict[str, tuple[float, float]] = {}
    for work in WORKS:
        run = works(args.size, *WAYS[args.way][1:], work)
        run()  # the first call also makes the libraries ready, and counts in the peak alone
        found[work] = min(processor_seconds(run) for _ in range(args.rounds))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": found, "peak": peak}))


def row(args: argparse.Namespace, way: str) -> str:
    """Measure a way in a process of its own and return its line of the table."""
    command = [sys.executable, "-m", "benchmarks.layouts", "--way", way]
    command += ["--size", str(args.size), "--rounds", str(args.rounds)]
    environment = os.environ | {SWITCH: WAYS[way][0]}
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(run.stdout)
    cells = (f"{total:.1f} ({system:.1f})" for total, system in found["seconds"].values())
    return f"| {way} | {' | '.join(cells)} | {found['peak']:.2f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", type=int, default=512, help="of the picture, in pixels")
    add("--rounds", type=int, default=3, help="calls after the first")
    add("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        return child(args)
    threads = torch.get_num_threads()
    print(f"{args.size} x {args.size}, {threads} threads, torch {torch.__version__}; seconds (system's)\n")
    print(f"| | {' | '.join(WORKS)} | peak, GiB |\n|---|---|---|---|---|")
    for way in WAYS:
        print(row(args, way), flush=True)


if __name__ == "__main__":
    main()

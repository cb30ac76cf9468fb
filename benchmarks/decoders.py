"""The base's decoder and the lighter one, side by side: arithmetic, processor time, memory beside the plan.

    python -m benchmarks.decoders [--sizes 512 1024] [--rounds 1] [--dtypes float32 bfloat16]

Stable Diffusion's decoder and one of the layout of `sd21_lwdecoder.pth`, with random weights, on the CPU.
Every row is a process of its own; seconds are of the processor, the least of the rounds after the first;
GiB are what the first call takes beyond the weights, and what a plan counts for it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.layouts import processor_seconds
from benchmarks.plan import GIVE_BACK, status
from benchmarks.random_base import LIGHT_WIDTHS, random_decoder
from osediff_core.base import sd21
from osediff_core.device.huge_pages import ask_for_huge_pages
from osediff_core.device.layout import lay_out
from osediff_core.network.config import VAEConfig, read_config
from osediff_core.network.vae import VAE
from osediff_core.tools.cost import macs
from osediff_core.vae.memory import decode_bytes

CPU = torch.device("cpu")
WIDTHS = {"the base's own": sd21.VAE["block_out_channels"], "lighter": LIGHT_WIDTHS}


def decoder(name: str, dtype: torch.dtype) -> VAE:
    """Return a VAE whose decoder has the widths of that name, and random weights."""
    widths = WIDTHS[name]
    own = {"decoder_block_out_channels": widths, "use_post_quant_conv": False}
    vae = VAE(read_config(VAEConfig, {**sd21.VAE, **own}))
    vae.decoder.load_state_dict(random_decoder(sd21.VAE, widths))
    vae = vae.eval().requires_grad_(False).to(dtype)
    lay_out(vae, CPU)
    return vae


@torch.inference_mode()
def measure(name: str, size: int, dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """Return multiply-accumulates, processor seconds, and measured and planned bytes of one decoding."""
    vae, side = decoder(name, dtype), size // 8
    z = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(1)).to(dtype)
    vae.decode(z[..., :8, :8])  # which makes the libraries ready
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    vae.decode(z)
    peak = status("VmHWM") - before
    seconds = min(processor_seconds(lambda: vae.decode(z))[0] for _ in range(rounds))
    planned = decode_bytes(vae, size, size, None, None)[0]
    return {"macs": macs(lambda: vae.decode(z)), "seconds": seconds, "peak": peak, "planned": planned}


def line(name: str, size: int, dtype: str, found: dict[str, float], seconds_of_the_first: float) -> str:
    """Return a row of the table; seconds_of_the_first: of the row that this one is compared with."""
    peak, planned = found["peak"] / 2**30, found["planned"] / 2**30
    share = found["seconds"] / seconds_of_the_first
    return (
        f"| {size} x {size} | {dtype} | {name} | {found['macs'] / 1e12:.2f} | {found['seconds']:.1f} "
        f"| {share:.2f} | {peak:.2f} | {planned:.2f} |"
    )


def main() -> None:
    """Print the table, or what one row measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", nargs="+", type=int, default=[512, 1024], help="of the picture, in pixels")
    add("--dtypes", nargs="+", default=["float32"], choices=("float32", "bfloat16"))
    add("--rounds", type=int, default=1, help="calls after the first")
    add("--one", nargs=3, metavar=("NAME", "SIZE", "DTYPE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, size, dtype = args.one
        print(json.dumps(measure(name, int(size), getattr(torch, dtype), args.rounds)))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| output | dtype | decoder | TMACs | processor, s | of the first | peak, GiB | planned, GiB |")
    print("|---|---|---|---|---|---|---|---|")
    environment = {**os.environ, **GIVE_BACK}
    ask_for_huge_pages(environment)
    for size in args.sizes:
        for dtype in args.dtypes:
            first = 0.0
            for name in WIDTHS:
                command = [sys.executable, "-m", "benchmarks.decoders", "--one", name, str(size), dtype]
                command += ["--rounds", str(args.rounds)]
                run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(run.stdout)
                first = first or found["seconds"]
                print(line(name, size, dtype, found, first), flush=True)


if __name__ == "__main__":
    main()

"""What a plan says of memory beside what is really taken: peaks of the process, on a processor.

    python -m benchmarks.plan              # the demo
    python -m benchmarks.plan --full       # Stable Diffusion's shapes with random weights: 5 GiB and minutes

Every row is a process of its own: it loads the model, restores a small picture, and then the one measured.
Peaks are those that Linux notes (VmHWM in /proc/self/status, set back through /proc/self/clear_refs), with
freed memory given back at once. glibc otherwise keeps freed blocks below 32 MiB, as many as it comes to: one
and the same picture then peaks at 680 or at 890 MB, of which 545 are in use.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from osediff_core import OSEDiff, restore
from osediff_core.base import sd21
from osediff_core.diffusion import alphas_cumprod
from osediff_core.network.config import UNetConfig, VAEConfig, read_config
from osediff_core.network.unet import UNet
from osediff_core.network.vae import VAE
from osediff_core.pipeline.plan import make_plan
from osediff_core.pipeline.runtime import Runtime

DEMO = [(128, 128, "auto"), (256, 256, "auto"), (384, 512, "auto"), (768, 512, "auto"),
        (256, 256, "64"), (384, 512, "256"), (768, 768, "256")]  # fmt: skip
FULL = [(64, 64, "auto"), (128, 128, "auto"), (192, 256, "auto"),
        (128, 128, "256"), (256, 256, "256"), (384, 512, "256")]  # fmt: skip
SCALE = 4
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}  # read by glibc


def full_size() -> OSEDiff:
    """Return a model of Stable Diffusion's UNet and VAE with random weights, whose prompt is kept already."""
    unet, vae = UNet(read_config(UNetConfig, sd21.UNET)), VAE(read_config(VAEConfig, sd21.VAE))
    model = OSEDiff(unet, vae, torch.nn.Linear(1, 1), None, alphas_cumprod(sd21.SCHEDULER))  # type: ignore[arg-type]
    embeds = torch.zeros(1, 77, sd21.UNET["cross_attention_dim"])
    model.embeddings.of = lambda *_: embeds  # type: ignore[method-assign]
    return model.eval().requires_grad_(False)


def status(name: str) -> int:
    """Return a line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def measure(full: bool, height: int, width: int, vae: str) -> tuple[int, int]:
    """Return the planned and the measured bytes of one picture."""
    model = full_size() if full else OSEDiff.from_pretrained(device="cpu", dtype="float32")
    how: str | int = int(vae) if vae.isdigit() else vae
    g = torch.Generator().manual_seed(0)
    restore(model, torch.rand(1, 3, 8, 8, generator=g), scale=SCALE)
    lq = torch.rand(1, 3, height, width, generator=g)
    planned = make_plan(model, height, width, runtime=Runtime(), scale=SCALE, vae=how).device_bytes
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    restore(model, lq, scale=SCALE, vae=how)
    return planned, status("VmHWM") - before


def one_row(command: Sequence[str]) -> tuple[int, int]:
    """Return the planned and the measured bytes of a row, in a process that gives back what it frees."""
    out = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | GIVE_BACK
    ).stdout
    planned, measured = map(int, out.split())
    return planned, measured


def main() -> None:
    """Print planned and measured bytes, and their ratio, for every row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="Stable Diffusion's shapes, with random weights")
    parser.add_argument("--one", nargs=3, metavar=("H", "W", "VAE"), help="one row, in this process")
    args = parser.parse_args()
    if args.one:
        height, width, vae = args.one
        print(*measure(args.full, int(height), int(width), vae))
        return
    print(f"{'result':>12}  {'VAE':>5}  {'planned':>9}  {'measured':>9}  ratio")
    for height, width, vae in FULL if args.full else DEMO:
        command = [sys.executable, "-m", "benchmarks.plan", "--one", str(height), str(width), vae]
        command += ["--full"] if args.full else []
        planned, measured = one_row(command)
        size = f"{SCALE * width} x {SCALE * height}"
        mib = f"{planned / 2**20:>5.0f} MiB  {measured / 2**20:>5.0f} MiB"
        print(f"{size:>12}  {vae:>5}  {mib}  {planned / measured:.2f}", flush=True)


if __name__ == "__main__":
    main()

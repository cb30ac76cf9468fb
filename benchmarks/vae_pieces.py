"""The VAE whole, in our exact pieces, in the published pieces and in diffusers' tiles: error, peak and time.

    python benchmarks/vae_pieces.py --size 2048x2048 --ways decode

A VAE of Stable Diffusion's size with random weights, float32 on the CPU. Every row is a process of its own,
so that its peak resident set is its own; "over weights" is that peak less what was resident with the weights
and the input there. The error is the largest absolute difference to the whole.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.published_hook import run_hook
from benchmarks.reference import as_diffusers
from osediff_core.base import sd21
from osediff_core.network.config import VAEConfig, read_config
from osediff_core.network.vae import VAE
from osediff_core.vae.exact import decode_in_pieces, encode_in_pieces
from osediff_core.vae.memory import PIECE, decode_bytes, encode_bytes

METHODS = ("whole", "exact pieces", "published pieces", "diffusers tiling")
PUBLISHED = {"encode": 1024, "decode": 224}  # image pixels, latent pixels
GIB = 2**30


def make_vae() -> VAE:
    """Build the VAE of Stable Diffusion with seeded random weights."""
    torch.manual_seed(0)
    return VAE(read_config(VAEConfig, sd21.VAE)).eval().requires_grad_(False)


def make_input(way: str, height: int, width: int) -> Tensor:
    """Make an image in [-1, 1] or a latent whose brightness changes over the picture, as in photographs."""
    g = torch.Generator().manual_seed(1)
    if way == "decode":
        height, width = height // 8, width // 8
    slope = torch.linspace(-1, 1, width) + torch.linspace(-0.5, 0.5, height)[:, None]
    noise = torch.randn(1, 4 if way == "decode" else 3, height, width, generator=g)
    return noise + slope if way == "decode" else (0.3 * noise + 0.6 * slope).clamp(-1, 1)


def compute(vae: VAE, x: Tensor, way: str, method: str, piece: int, published: int | None) -> Tensor:
    """Run one method."""
    if method == "exact pieces":
        return (encode_in_pieces if way == "encode" else decode_in_pieces)(vae, x, piece=piece)
    if method == "published pieces":
        return run_hook(vae, x, way, published or PUBLISHED[way])
    if method == "diffusers tiling":
        theirs = as_diffusers(vae)
        theirs.enable_tiling()
        return theirs.encode(x).latent_dist.parameters if way == "encode" else theirs.decode(x).sample
    return vae.encode(x) if way == "encode" else vae.decode(x)


def resident(field: str) -> int:
    """Read this process's resident set from the kernel: "VmRSS" now, "VmHWM" its peak. In bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ValueError(field)


def child(args: argparse.Namespace, method: str, out: Path) -> None:
    """Run one method, save its result, and write its figures to standard output."""
    vae, x = make_vae(), make_input(args.way, *args.size)
    before = resident("VmRSS")
    begun = time.perf_counter()
    with torch.no_grad():
        result = compute(vae, x, args.way, method, args.piece, args.published_tile)
    seconds = time.perf_counter() - begun
    figures = {"seconds": seconds, "peak": resident("VmHWM"), "before": before}
    torch.save(result.clone(), out)
    sys.stdout.write(json.dumps(figures))


def row(args: argparse.Namespace, way: str, method: str, folder: Path) -> str:
    """Run one method in a process of its own, and return its line of the table."""
    out = folder / f"{way}-{method}.pt"
    size = "x".join(map(str, args.size))
    options = ["--child", method, "--out", str(out), "--way", way, "--size", size, "--piece", str(args.piece)]
    if args.published_tile:
        options += ["--published-tile", str(args.published_tile)]
    done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True)
    if done.returncode:
        return (
            f"| {way} | {method} | failed: {done.stderr.strip().splitlines()[-1:] or done.returncode} | | | |"
        )
    figures = json.loads(done.stdout.splitlines()[-1])
    result, whole = torch.load(out), folder / f"{way}-whole.pt"
    error = (result - torch.load(whole)).abs().max().item() if whole.exists() else float("nan")
    over = (figures["peak"] - figures["before"]) / GIB
    peak, seconds = figures["peak"] / GIB, figures["seconds"]
    return f"| {way} | {method} | {error:.1e} | {peak:.2f} | {over:.2f} | {seconds:.1f} |"


def promised(way: str, height: int, width: int, piece: int) -> str:
    """What the estimate says for the pieces: (working, kept) in GiB."""
    with torch.device("meta"):
        vae = make_vae()
    memory = encode_bytes if way == "encode" else decode_bytes
    working, kept = memory(vae, height, width, piece, Path())
    two = 2 * (128 if way == "encode" else 256) * height * width * 4
    return (
        f"{way}: estimate for the exact pieces {working / GIB:.2f} GiB beside {kept / GIB:.2f} GiB kept; two "
        f"activations of the largest layer are {two / GIB:.2f} GiB"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", default=(512, 512), type=lambda s: tuple(map(int, s.split("x"))), help="height x width")
    add("--ways", nargs="+", choices=("encode", "decode"), default=["encode", "decode"])
    add(
        "--methods", nargs="+", choices=METHODS, default=METHODS, help="the whole is what the others err from"
    )
    add("--piece", type=int, default=PIECE, help="side of the exact pieces, image pixels")
    add("--published-tile", type=int, help="of the hook (default 1024 image pixels, 224 latent pixels)")
    add("--child", choices=METHODS, help=argparse.SUPPRESS)
    add("--way", help=argparse.SUPPRESS)
    add("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args, args.child, args.out)
    threads = torch.get_num_threads()
    print(f"{args.size[0]} x {args.size[1]}, float32, {threads} threads, torch {torch.__version__}\n")
    print("| way | method | error | peak GiB | over weights GiB | seconds |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for way in args.ways:
            for method in args.methods:
                print(row(args, way, method, Path(folder)), flush=True)
    print()
    for way in args.ways:
        print(promised(way, *args.size, args.piece))
    return None


if __name__ == "__main__":
    main()

"""Ours, the published way and diffusers' own tiling, side by side on the same random full-size weights.

    python -m benchmarks.speed FOLDER [--cpu] [--sizes 512x512 ...]

FOLDER gets a base of 2.6 GB for the run. Each row is measured in a process of its own: once cold (loading the
model, and its first picture), then warm; `processor` are the processor's seconds of a warm picture.
Multiply-accumulates are counted during the first picture, the share of the peak is against the fastest matrix
product that this device did in the same run, and `distance` is the root mean square difference to our result,
in levels of 255. The whole matrix is for a card; --cpu runs ours and the published way to 512 x 512 and to
1024 x 1024, once cold and twice warm, and one decoding to 2048 x 2048: 36 minutes on two cores. At these
sizes the published way does not cut the VAE, so "published, exact VAE" is the same arithmetic; nor does
diffusers cut it at 512 x 512. --ways adds them. Rows that were not run say so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.full_size import Memory, build
from benchmarks.published import publish, restore_published
from benchmarks.reference import as_diffusers
from osediff_core import OSEDiff
from osediff_core.color import match_color, to_levels
from osediff_core.pipeline.plan import make_plan
from osediff_core.pipeline.run import decode, encode_prompt, prepare, restore
from osediff_core.pipeline.runtime import Runtime
from osediff_core.weights.checkpoint import Checkpoint, read_checkpoint

SIZES = ("512x512", "1024x1024", "2048x2048", "3840x2160")
BATCHES = (1, 8)
ON_A_PROCESSOR = {("512x512", 1), ("1024x1024", 1)}
WAYS_ON_A_PROCESSOR = ("ours", "published")
"""What --cpu runs, beside one decoding to 2048 x 2048."""
DECODED = "2048x2048"  # in one row of its own, whose picture a processor would not finish
FORM = "folder-fp16"
WAYS = {
    "ours": "exact pieces where the whole does not fit, tiles in batches, LoRA folded",
    "published": "diffusers' networks, LoRA unmerged, one tile at a time, the published VAE pieces",
    "published, exact VAE": "the same with our VAE: equal exactness",
    "diffusers tiling": "LoRA folded, UNet whole, diffusers' enable_tiling",
}


@dataclass(frozen=True)
class Setting:
    """One row: which way, output width x height, batch, and what runs it."""

    way: str
    size: str
    batch: int
    device: str
    dtype: str
    compile: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the output."""
        width, height = map(int, self.size.split("x"))
        return height, width


def runner(setting: Setting, base: Path) -> Callable[[Tensor], Tensor]:
    """Load the model as one way does it; returns what restores a batch of inputs, (B, 3, H, W) uint8."""
    vocabulary, weights = base.with_name("vocabulary"), base.with_name("osediff.pkl")
    options = {"dtype": setting.dtype, "device": setting.device, "vocabulary": vocabulary}
    if not setting.way.startswith("published"):
        model = OSEDiff.from_pretrained(base, weights, **options)
        return tiled_by_diffusers(model) if setting.way == "diffusers tiling" else partial(restore, model)
    model = OSEDiff.from_pretrained(base, None, **options)
    return published(model, read_checkpoint(weights), exact=setting.way == "published, exact VAE")


def published(model: OSEDiff, checkpoint: Checkpoint, exact: bool = False) -> Callable[[Tensor], Tensor]:
    """Return what restores a batch the published way, on a plain base whose tensors it takes."""
    way = publish(model, checkpoint, exact)
    embeds = encode_prompt(model, [""], Runtime())  # (1, L, D)

    def one_by_one(lq: Tensor) -> Tensor:
        x = prepare(lq, make_plan(model, *lq.shape[-2:], scale=4, runtime=Runtime()))
        images = (image.to(model.device) for image in x.split(1))
        return torch.cat([restore_published(way, image, embeds) for image in images])

    return one_by_one


def tiled_by_diffusers(model: OSEDiff) -> Callable[[Tensor], Tensor]:
    """Return what restores a batch with the UNet whole and the VAE as diffusers tiles it."""
    vae = as_diffusers(model.vae)
    vae.enable_tiling()
    embeds = encode_prompt(model, [""], Runtime())  # (1, L, D)

    @torch.no_grad()
    def run(lq: Tensor) -> Tensor:
        x = prepare(lq, make_plan(model, *lq.shape[-2:], scale=4, runtime=Runtime()))
        x = x.to(model.device)  # (B, 3, H, W)
        z = model.scaled(vae.encode((x * 2 - 1).to(model.dtype)).latent_dist.parameters)  # (B, C, h, w)
        z_hq = model.predict_x0(z, model.predict_noise(z, embeds))  # (B, C, h, w)
        image = vae.decode((z_hq / model.scaling_factor).to(model.dtype)).sample.float()  # (B, 3, H, W)
        return match_color((image / 2 + 0.5).clamp(0, 1), x, "adain")

    return run


def matrix_peak(device: str, dtype: torch.dtype, side: int | None = None) -> float:
    """1e12 multiply-accumulates per second of the fastest square matrix product, the best of several."""
    side = side or (8192 if device != "cpu" else 2048)
    a = torch.randn(side, side, device=device).to(dtype)
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        a @ a
        wait(device)
        best = max(best, side**3 / 1e12 / (time.perf_counter() - start))
    return best


def wait(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device != "cpu":
        getattr(torch, torch.device(device).type).synchronize()


def measure(setting: Setting, base: Path, times: int, out: Path) -> dict[str, float]:
    """Run one row in this process: seconds cold and warm, MACs, GiB at the peak."""
    memory = Memory()
    height, width = setting.shape
    lq = torch.rand(setting.batch, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(0))
    lq = to_levels(lq)
    start = time.perf_counter()
    run = runner(setting, base)
    loaded = time.perf_counter() - start
    seconds, processor = [], []
    with FlopCounterMode(display=False) as counter:
        start = time.perf_counter()
        sr = run(lq)
        wait(setting.device)
        cold = loaded + time.perf_counter() - start
    for _ in range(times):
        start, spent = time.perf_counter(), time.process_time()
        sr = run(lq)
        wait(setting.device)
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - spent)
    torch.save(sr.cpu().half(), out)
    peak = memory.own
    if setting.device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated() / 2**30
    found = {"cold": cold, "warm": min(seconds), "processor": min(processor), "peak": peak}
    return found | {"macs": counter.get_total_flops() / 2e12}


def decode_only(base: Path, device: str, dtype: str) -> dict[str, float]:
    """One decoding to 2048 x 2048: seconds, and GiB at the peak."""
    memory = Memory()
    options = {"dtype": dtype, "device": device, "vocabulary": base.with_name("vocabulary")}
    model = OSEDiff.from_pretrained(base, base.with_name("osediff.pkl"), **options)
    z = torch.randn(1, 4, 256, 256, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    with FlopCounterMode(display=False) as counter:
        runtime = Runtime()
        decode(model, z, make_plan(model, 2048, 2048, runtime=runtime), runtime)
    return {"cold": time.perf_counter() - start, "peak": memory.own, "macs": counter.get_total_flops() / 2e12}


def settings(args: argparse.Namespace) -> Iterator[tuple[Setting, bool]]:
    """Every row of the matrix, and whether it is to be run."""
    for size in SIZES:
        for batch in BATCHES:
            for way in WAYS:
                wanted = size in args.sizes and batch in args.batches and way in args.ways
                possible = args.device != "cpu" or (size, batch) in ON_A_PROCESSOR
                yield Setting(way, size, batch, args.device, args.dtype), wanted and possible


def in_a_process_of_its_own(folder: Path, *arguments: str) -> dict[str, float] | None:
    """Run this module once more; returns what it measured, None where it failed (memory, most likely)."""
    command = [sys.executable, "-m", "benchmarks.speed", str(folder), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return None if done.returncode else json.loads(done.stdout.strip().splitlines()[-1])


def distance(found: Path, ours: Path) -> float | None:
    """Root mean square difference of two results, in levels of 255; None where one is missing."""
    if not (found.is_file() and ours.is_file()):
        return None
    return (torch.load(found).float() - torch.load(ours).float()).square().mean().sqrt().item() * 255


def line(setting: Setting, found: dict[str, float] | None, far: float | None, peak: float) -> str:
    """One line of the table; peak: 1e12 multiply-accumulates per second of this device."""
    head = f"| {setting.size} | {setting.batch} | {setting.way} |"
    if found is None:
        return f"{head} not measured | | | | | | | |"
    warm = found["warm"]
    return (
        f"{head} {found['cold']:.2f} | {warm:.2f} | {found['processor']:.2f} | {setting.batch / warm:.2f} "
        f"| {found['peak']:.2f} "
        f"| {found['macs']:.2f} | {found['macs'] / warm / peak:.0%} | {'' if far is None else f'{far:.2f}'} |"
    )


def table(args: argparse.Namespace, base: Path) -> None:
    """Run and print every row."""
    print("| output | batch | way | cold, s | warm, s | processor, s | images/s", end="")
    print(" | peak, GiB | TMACs | of peak | distance |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    peak = matrix_peak(args.device, getattr(torch, args.dtype))
    for setting, wanted in settings(args):
        out = args.folder / f"{setting.way}.pt".replace(" ", "_")
        found = None
        if wanted:
            row = json.dumps(asdict(setting))
            out.unlink(missing_ok=True)
            found = in_a_process_of_its_own(args.folder, "--row", row, "--times", str(args.times))
        far = distance(out, args.folder / "ours.pt") if wanted else None
        print(line(setting, found, far, peak), flush=True)
    if DECODED in args.sizes:
        of = ("--device", args.device, "--dtype", args.dtype)
        found = in_a_process_of_its_own(args.folder, "--decode", *of)
        if found is not None:
            print(f"\nOne decoding to {DECODED}, ours: {found['cold']:.1f} s, peak {found['peak']:.2f} GiB")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpu", action="store_true", help="what a processor does in 40 minutes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="float16", choices=("float16", "bfloat16", "float32"))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batches", nargs="+", type=int, choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="default all; with --cpu ours and published")
    parser.add_argument("--times", type=int, default=10, help="warm runs, of which the fastest counts")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--decode", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.ways = args.ways or (WAYS_ON_A_PROCESSOR if args.cpu else tuple(WAYS))
    if args.cpu:
        args.device, args.dtype, args.times = "cpu", "float32", 2
    return args


def main() -> None:
    """Measure everything, or, in a process of its own, one row."""
    args = parse()
    base = args.folder / FORM
    if args.row:
        setting = Setting(**json.loads(args.row))
        out = args.folder / f"{setting.way}.pt".replace(" ", "_")
        print(json.dumps(measure(setting, base, args.times, out)))
        return
    if args.decode:
        print(json.dumps(decode_only(base, args.device, args.dtype)))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    build(FORM, args.folder)
    try:
        table(args, base)
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()

"""A full-size model with random weights, in each form that users have: load it, restore 128x128 to 512x512.

    python -m benchmarks.full_size FOLDER [--forms folder-fp16 single-fp32 ...] [--dtype float32]

FOLDER gets the files, up to 5.2 GB at a time, and loses them again. Each form is loaded in a process of its
own, so that its peak of memory is its own: `peak` is all that was resident, pages of files that the system
can take back at once included; `own` is without those.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.random_base import random_checkpoint, write_folder, write_single_file, write_vocabulary
from osediff_core import OSEDiff
from osediff_core.restore import decode, denoise, encode, encode_prompt, finish, prepare
from osediff_core.weights.checkpoint import write_published

FORMS = {
    "folder-fp16": ("", torch.float16),
    "folder-fp32": ("", torch.float32),
    "single-fp16": (".safetensors", torch.float16),
    "single-bf16": (".safetensors", torch.bfloat16),
    "single-fp32": (".safetensors", torch.float32),
    "ckpt-fp16": (".ckpt", torch.float16),
    "ckpt-fp32": (".ckpt", torch.float32),
}
PARTS = ("load", "prompt", "encode", "denoise", "decode", "finish")


class Memory:
    """Watches the memory of this process that no file stands behind, in GiB."""

    def __init__(self) -> None:
        self.own = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            own = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            self.own = max(self.own, own / 2**20)
            time.sleep(0.01)

    @property
    def peak(self) -> float:
        """The most that was resident."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def build(form: str, folder: Path) -> Path:
    """Write a base of one form, and a published checkpoint beside it; returns the base's path."""
    suffix, dtype = FORMS[form]
    path = folder / f"{form}{suffix}"
    write_published(folder / "osediff.pkl", random_checkpoint())
    write_vocabulary(folder / "vocabulary")
    (write_single_file if suffix else write_folder)(path, dtype)
    return path


def measure(path: Path, dtype: str) -> dict[str, float]:
    """Load a base and restore a picture; returns seconds by part, and the peaks of memory in GiB."""
    memory, seconds = Memory(), {}

    def timed(part: str, work: Callable[[], object]) -> object:
        start = time.perf_counter()
        result = work()
        seconds[part] = time.perf_counter() - start
        return result

    import diffusers.models  # noqa: F401
    import transformers  # noqa: F401

    weights, vocabulary = path.with_name("osediff.pkl"), path.with_name("vocabulary")
    options = {"dtype": dtype, "device": "cpu", "vocabulary": vocabulary}
    model = timed("load", lambda: OSEDiff.from_pretrained(path, weights, **options))
    loaded = {"peak_load": memory.peak, "own_load": memory.own}
    lq = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    x, size = prepare(lq, 4, model.reduction)
    embeds = timed("prompt", lambda: encode_prompt(model, ["a cat"]))
    z_lq = timed("encode", lambda: encode(model, x))
    z_hq = timed("denoise", lambda: denoise(model, z_lq, embeds))
    sr = timed("decode", lambda: decode(model, z_hq))
    sr = timed("finish", lambda: finish(sr, x, size))
    if sr.shape != (1, 3, 512, 512) or not sr.isfinite().all():
        raise SystemExit(f"the result is {tuple(sr.shape)}, finite: {bool(sr.isfinite().all())}")
    return {**seconds, **loaded, "peak": memory.peak, "own": memory.own}


def in_a_process_of_its_own(*arguments: str) -> str:
    """Run this module once more; returns the last line that it wrote."""
    command = [sys.executable, "-m", "benchmarks.full_size", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Build, load and restore every form, one after the other, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--build", metavar="FORM", help="only write this form")
    parser.add_argument("--measure", metavar="PATH", type=Path, help="only measure this base")
    args = parser.parse_args()
    if args.build:
        print(build(args.build, args.folder))
    elif args.measure:
        print(json.dumps(measure(args.measure, args.dtype)))
    else:
        table(args.folder, args.forms, args.dtype)


def table(folder: Path, forms: list[str], dtype: str) -> None:
    """Print seconds by part and GiB, a line for each form."""
    columns = [*PARTS, "peak_load", "own_load", "peak", "own"]
    print(f"| base, to {dtype} | {' | '.join(columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    folder.mkdir(parents=True, exist_ok=True)
    for form in forms:
        path = Path(in_a_process_of_its_own(str(folder), "--build", form))
        found = json.loads(in_a_process_of_its_own(str(folder), "--measure", str(path), "--dtype", dtype))
        print(f"| {form} | {' | '.join(f'{found[name]:.1f}' for name in columns)} |", flush=True)
        shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()

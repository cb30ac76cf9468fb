"""A full-size model with random weights, in each form that users have: load it, restore 128x128 to 512x512.

    python -m benchmarks.full_size FOLDER [--forms folder-fp16 single-fp32 ...] [--dtype float32]

FOLDER gets the files, up to 11 GB at a time, and loses the large ones again: a base, a published checkpoint,
and RAM's and DAPE's files, which make the prompt. Each form is loaded in a process of its own, so that its
memory is its own. GiB are what no file stands behind, at the most while a part ran; `resident` is the most of
all that was in memory, pages of files that the system can take back at once included.
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
from typing import Any, TypeVar

import torch

from benchmarks.random_base import random_checkpoint, write_folder, write_single_file, write_vocabulary
from benchmarks.random_tagger import write_files
from osediff_core import OSEDiff, Tagger
from osediff_core.pipeline.plan import make_plan
from osediff_core.pipeline.run import decode, denoise, encode, encode_prompt, finish, prepare
from osediff_core.pipeline.runtime import Runtime
from osediff_core.prompts.tagger_file import read_tagger, write_tagger
from osediff_core.weights.checkpoint import write_published

T = TypeVar("T")
Found = dict[str, dict[str, float]]
FORMS = {
    "folder-fp16": ("", torch.float16),
    "folder-bf16": ("", torch.bfloat16),
    "folder-fp32": ("", torch.float32),
    "single-fp16": (".safetensors", torch.float16),
    "single-bf16": (".safetensors", torch.bfloat16),
    "single-fp32": (".safetensors", torch.float32),
    "ckpt-fp16": (".ckpt", torch.float16),
    "ckpt-bf16": (".ckpt", torch.bfloat16),
    "ckpt-fp32": (".ckpt", torch.float32),
}
PARTS = ("load", "tagger", "tags", "prompt", "encode", "denoise", "decode", "finish")
RAM, DAPE, ONE_FILE = "ram_swin_large_14m.pth", "DAPE.pth", "tagger.safetensors"
TAGGER = "tagger"
"""What to build or measure that is no form of a base: RAM and DAPE, and the one file made of them."""


class Memory:
    """Watches the memory of this process that no file stands behind, in GiB."""

    def __init__(self) -> None:
        self.own = self._since = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._look()
            time.sleep(0.01)

    def _look(self) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        own = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 2**20
        self.own, self._since = max(self.own, own), max(self._since, own)

    def lap(self) -> float:
        """The most since this was asked last."""
        self._look()
        most, self._since = self._since, 0.0
        return most

    @property
    def peak(self) -> float:
        """The most that was resident."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Parts:
    """Runs parts of a work one by one; notes the seconds of each, and the most memory while it ran."""

    def __init__(self) -> None:
        self.memory, self.seconds, self.own = Memory(), dict[str, float](), dict[str, float]()

    def run(self, part: str, work: Callable[[], T]) -> T:
        """Return what a part gives."""
        self.memory.lap()
        start = time.perf_counter()
        result = work()
        self.seconds[part] = time.perf_counter() - start
        self.own[part] = self.memory.lap()
        return result

    def found(self) -> Found:
        """What was noted."""
        return {"seconds": self.seconds, "own": self.own, "resident": {"all": self.memory.peak}}


def build(form: str, folder: Path) -> Path:
    """Write a base of one form, and a published checkpoint beside it; returns the base's path."""
    suffix, dtype = FORMS[form]
    path = folder / f"{form}{suffix}"
    write_published(folder / "osediff.pkl", random_checkpoint())
    write_vocabulary(folder / "vocabulary")
    (write_single_file if suffix else write_folder)(path, dtype)
    return path


def measure(path: Path, dtype: str) -> Found:
    """Load a base, and the checkpoint, RAM and DAPE beside it, and restore a picture by tags."""
    parts = Parts()
    import transformers  # noqa: F401

    weights, vocabulary = path.with_name("osediff.pkl"), path.with_name("vocabulary")
    options: dict[str, Any] = {"dtype": dtype, "device": "cpu"}
    model = parts.run(
        "load", lambda: OSEDiff.from_pretrained(path, weights, vocabulary=vocabulary, **options)
    )
    ram, dape = path.with_name(RAM), path.with_name(DAPE)
    tagger = parts.run(TAGGER, lambda: Tagger.from_pretrained(ram, dape, **options))
    lq = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    prompts = parts.run("tags", lambda: tagger(lq))
    runtime = Runtime()
    plan = make_plan(model, *lq.shape[-2:], scale=4, runtime=runtime)
    x, size = prepare(lq, plan), plan.size
    embeds = parts.run("prompt", lambda: encode_prompt(model, prompts, runtime))
    z_lq = parts.run("encode", lambda: encode(model, x, plan, runtime))
    z_hq = parts.run("denoise", lambda: denoise(model, z_lq, embeds, plan, runtime))
    sr = parts.run("decode", lambda: decode(model, z_hq, plan, runtime))
    sr = parts.run("finish", lambda: finish(sr, x, size))
    if sr.shape != (1, 3, 512, 512) or not sr.isfinite().all():
        raise SystemExit(f"the result is {tuple(sr.shape)}, finite: {bool(sr.isfinite().all())}")
    return parts.found()


def measure_tagger(folder: Path) -> Found:
    """Make one file of RAM and DAPE, and load it."""
    parts = Parts()
    import transformers  # noqa: F401

    out = folder / ONE_FILE
    parts.run("convert", lambda: write_tagger(out, read_tagger(folder / RAM, folder / DAPE)))
    parts.run("load", lambda: Tagger.from_pretrained(out, device="cpu"))
    return parts.found()


def in_a_process_of_its_own(*arguments: str) -> str:
    """Run this module once more; returns the last line that it wrote."""
    command = [sys.executable, "-m", "benchmarks.full_size", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Build, load and restore every form, one after the other, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--build", choices=[*FORMS, TAGGER], help="only write this into FOLDER")
    parser.add_argument("--measure", metavar="PATH", help=f"only measure this base, or {TAGGER}, of FOLDER")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.build == TAGGER:
        print(*write_files(args.folder))
    elif args.build:
        print(build(args.build, args.folder))
    elif args.measure == TAGGER:
        print(json.dumps(measure_tagger(args.folder)))
    elif args.measure:
        print(json.dumps(measure(Path(args.measure), args.dtype)))
    else:
        tables(args.folder, args.forms, args.dtype)


def tables(folder: Path, forms: list[str], dtype: str) -> None:
    """Print seconds and GiB of every form by part, and those of the tagger in one file."""
    in_a_process_of_its_own(str(folder), "--build", TAGGER)
    print(f"| base, to {dtype} | | {' | '.join(PARTS)} | all | resident |")
    print(f"|---|---|{'---|' * (len(PARTS) + 2)}", flush=True)
    for form in forms:
        path = Path(in_a_process_of_its_own(str(folder), "--build", form))
        found = json.loads(in_a_process_of_its_own(str(folder), "--measure", str(path), "--dtype", dtype))
        print("\n".join(rows(form, found, PARTS)), flush=True)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = json.loads(in_a_process_of_its_own(str(folder), "--measure", TAGGER))
    print("\n| tagger | | convert | load | all | resident |\n|---|---|---|---|---|---|")
    print("\n".join(rows("RAM + DAPE to one file", found, ("convert", "load"))))
    for name in (RAM, DAPE, ONE_FILE):
        (folder / name).unlink()


def rows(name: str, found: Found, parts: tuple[str, ...]) -> list[str]:
    """Two lines of a table: seconds, and GiB."""
    seconds, own = ([found[kind][part] for part in parts] for kind in ("seconds", "own"))
    times = " | ".join(f"{value:.1f}" for value in [*seconds, sum(seconds)])
    sizes = " | ".join(f"{value:.2f}" for value in [*own, max(own), found["resident"]["all"]])
    return [f"| {name} | s | {times} | |", f"| | GiB | {sizes} |"]


if __name__ == "__main__":
    main()

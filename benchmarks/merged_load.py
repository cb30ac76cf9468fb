"""Loading a merged model, beside loading its base with the published checkpoint's layout on it.

    python -m benchmarks.merged_load FOLDER [--rounds 2]

Full size, random weights, float16. FOLDER gets the files and loses them again, 5 GB. Every loading is a
process of its own, the two ways in turn; the least of the rounds is printed.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.full_size import Memory, in_a_process_of_its_own
from osediff_core import OSEDiff
from osediff_core.tools.merged import write_merged


def load(base: Path, weights: Path | None) -> dict[str, float]:
    """Load a model; returns seconds of the processor and of the clock, and GiB of its own memory at most."""
    import transformers  # noqa: F401

    memory, before, begun = Memory(), resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    OSEDiff.from_pretrained(base, weights, dtype="float16", device="cpu")
    clock, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"processor": processor, "clock": clock, "own": memory.lap()}


def load_in_a_process(base: Path, weights: Path | None) -> dict[str, float]:
    """Do that in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.merged_load", str(base), "--load", str(weights or "")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--load", metavar="WEIGHTS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load is not None:
        return print(json.dumps(load(args.folder, Path(args.load) if args.load else None)))
    args.folder.mkdir(parents=True, exist_ok=True)
    base = Path(in_a_process_of_its_own(str(args.folder), "--build", "folder-fp16"))
    weights, merged = base.with_name("osediff.pkl"), base.with_name("merged")
    write_merged(merged, base, weights)
    ways = {"base and checkpoint": (base, weights), "merged": (merged, None)}
    found = [{name: load_in_a_process(*way) for name, way in ways.items()} for _ in range(args.rounds)]
    print("| | processor, s | clock, s | own memory, GiB |\n|---|---|---|---|")
    for name in ways:
        least = {what: min(one[name][what] for one in found) for what in found[0][name]}
        print(f"| {name} | {least['processor']:.1f} | {least['clock']:.1f} | {least['own']:.2f} |")
    for folder in (base, merged):
        shutil.rmtree(folder)
    weights.unlink()


if __name__ == "__main__":
    main()

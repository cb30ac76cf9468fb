"""All that is to be known of a card, by one command that downloads nothing and ends in time.

    python -m benchmarks.card OUT                        # a CUDA card, 8 minutes at most
    python -m benchmarks.card OUT --device cpu --tiny    # whether the program runs, in seconds

Networks of full size with random weights are made on the card. OUT gets card.md, a page for docs/,
and card.json. Each part has its share of the time, and what one leaves goes to the next; a row that fails is
written down with its error, one for which no time is left as not run. An interrupted run writes what it has.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

from benchmarks.card import correctness, speed, training
from benchmarks.card.log import Log
from benchmarks.card.machine import Machine
from benchmarks.card.page import write
from benchmarks.card.subjects import subject
from osediff_core.base.load import resolve_device
from osediff_core.commands.console import show

MINUTES = 8.0
PARTS = {
    "Correctness": (correctness.measure, 0.3),
    "Speed": (speed.measure, 0.8),
    "Training": (training.measure, 1.0),
}
"""What is measured, in this order, and the share of the time after which each must be done."""


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="the folder of the page")
    add("--device", default="cuda", help="cuda, cuda:1, cpu (default cuda)")
    add("--minutes", type=float, default=MINUTES, help=f"the most that it may take (default {MINUTES:g})")
    add("--tiny", action="store_true", help="the tests' smallest model: figures that say nothing")
    args = parser.parse_args()
    began, seconds = time.monotonic(), 60 * args.minutes
    machine = Machine(resolve_device(args.device))
    log = Log(machine, show)
    try:
        measured = subject(machine.device, args.tiny)
        for name, (measure, share) in PARTS.items():
            log.part(name, began + share * seconds, partial(measure, log, measured))
    finally:
        weights = (
            "the tests' smallest model, so the figures say nothing" if args.tiny else "full size, random"
        )
        about = machine.about() | {"took": f"{time.monotonic() - began:.0f} s"}
        for path in write(args.out, about, weights, log.tables):
            show(f"wrote {path}")


if __name__ == "__main__":
    main()

"""`python -m train.small_problem`: what VSD and CSD do where the base really generates the pictures.

Trains a base on pictures made by a program, then the generator with each of the losses and from several
seeds; prints the tables, and writes them into a page and the picture beside it where one is named. What is
done is kept in the run's folder, so that a stopped call goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from osediff_core.commands.console import show
from osediff_core.errors import OSEDiffError

from ..config import TrainConfig
from ..programs.console import refuse, start_console
from ..programs.pages import write_parts
from ..programs.tables import read_config
from .runs import BEYOND, CONFIG, LOSSES, SETTINGS, run_all
from .tables import (
    PLAIN,
    VSD,
    beyond_table,
    curves,
    differences,
    references,
    settings_table,
    table,
    write_picture,
)

PART, STUDY, FURTHER = "the small problem", "settings of VSD", "objectives beyond the paper"
PICTURE = "pictures/small_problem.png"


def main(argv: list[str] | None = None) -> int:
    """Train, print and write the tables and the picture; returns the exit status."""
    args = parse(argv)
    start_console(logging.INFO, "%(asctime)s %(message)s")
    try:
        shared = read_config(TrainConfig, CONFIG)
        parts = _beyond(shared, args.seeds) if args.beyond else _losses(shared, args)
        if args.doc is not None:
            write_parts(args.doc, parts)
    except OSEDiffError as error:
        return refuse(error)
    show("\n\n".join([*parts.values(), *([] if args.doc is None else [f"written to {args.doc}"])]))
    return 0


def _losses(shared: TrainConfig, args: argparse.Namespace) -> dict[str, str]:
    """Compare the paper's losses, and settings of VSD; leave the picture beside the page or the runs."""
    folder = Path(shared.run.out)
    results = run_all(shared, args.seeds, [*LOSSES, *SETTINGS])
    write_picture((folder if args.doc is None else args.doc.parent) / PICTURE, folder)
    picture = f"![Two samples a row: LQ, data term alone, with VSD, with CSD, original]({PICTURE})"
    shown = [picture, table(results, references(folder)), differences(results)]
    return {PART: "\n\n".join(shown), STUDY: "\n\n".join([settings_table(results), curves(results)])}


def _beyond(shared: TrainConfig, seeds: int) -> dict[str, str]:
    """Compare objectives that the paper does not have with two that it has."""
    return {FURTHER: beyond_table(run_all(shared, seeds, [PLAIN, VSD, *BEYOND]))}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m train.small_problem",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row (default 3)")
    parser.add_argument("--doc", type=Path, help="page to write into, such as docs/ablation.md")
    further = "train objectives beyond the paper instead, and write their table"
    parser.add_argument("--beyond", action="store_true", help=further)
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error("--seeds must be at least 1")
    return args


if __name__ == "__main__":
    sys.exit(main())

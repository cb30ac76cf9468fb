"""`python -m train.small_problem`: what VSD and CSD do where the base really generates the pictures.

Trains a base on pictures made by a program, then the generator with each of the losses and from several
seeds, and writes tables into docs/ablation.md and a picture beside it. What is done is kept in the run's
folder, so that a stopped call goes on.
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
from .runs import CONFIG, run_all
from .tables import curves, differences, references, settings_table, table, write_picture

PART, STUDY = "the small problem", "settings of VSD"
PICTURE = "pictures/small_problem.png"


def main(argv: list[str] | None = None) -> int:
    """Train, print and write the tables and the picture; returns the exit status."""
    args = parse(argv)
    start_console(logging.INFO, "%(asctime)s %(message)s")
    try:
        shared = read_config(TrainConfig, CONFIG)
        folder = Path(shared.run.out)
        results = run_all(shared, args.seeds)
        picture = f"![Two samples a row: LQ, data term alone, with VSD, with CSD, original]({PICTURE})"
        shown = "\n\n".join([picture, table(results, references(folder)), differences(results)])
        studied = "\n\n".join([settings_table(results), curves(results)])
        write_parts(args.doc, {PART: shown, STUDY: studied})
        write_picture(args.doc.parent / PICTURE, folder)
    except OSEDiffError as error:
        return refuse(error)
    show(f"{shown}\n\n{studied}\n\nwritten to {args.doc}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m train.small_problem",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row (default 3)")
    parser.add_argument("--doc", type=Path, default=Path("docs/ablation.md"), help="page to write into")
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error("--seeds must be at least 1")
    return args


if __name__ == "__main__":
    sys.exit(main())

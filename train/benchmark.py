"""Compare methods on test sets: restore, measure, and write the paper's table with both kinds of rows apart.

python -m train.benchmark CONFIG.toml                       # print the tables
python -m train.benchmark CONFIG.toml --doc docs/evidence.md
python -m train.benchmark CONFIG.toml --report F.html       # and a page to look at, with all pictures

A stopped run goes on where it stopped. docs/evaluation.md has an example of the configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from osediff_core.commands.console import show
from osediff_core.device.huge_pages import ask_for_huge_pages
from osediff_core.errors import OSEDiffError
from osediff_core.report.page import check_page, write_report

from .evaluation.comparison import ComparisonConfig, compare, remedies, report
from .evaluation.looking import comparison_report
from .programs.console import refuse, start_console
from .programs.pages import write_parts
from .programs.tables import read_config

COMMAND = "train.benchmark"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m train.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.toml", help="methods, sets and metrics")
    parser.add_argument("--doc", type=Path, metavar="F", help="Markdown page to put the tables into")
    page_help = "page to look at, in one file: tables, charts, every picture by every method"
    parser.add_argument("--report", type=Path, metavar="F.html", help=page_help)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Print the tables; returns the exit status."""
    args = parse(argv)
    start_console()
    ask_for_huge_pages(os.environ)
    try:
        config = read_config(ComparisonConfig, args.config)
        if args.report is not None:
            check_page(args.report)
        cells = compare(config)
        text = report(config, cells)
        if args.doc is not None:
            write_parts(args.doc, {COMMAND: text})
        if args.report is not None:
            write_report(args.report, comparison_report(config, cells))
        show("\n\n".join(filter(None, [text, remedies(config, cells)])))
    except OSEDiffError as error:
        return refuse(error)
    except KeyboardInterrupt:  # what was restored and measured is kept
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

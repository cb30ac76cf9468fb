"""Measure restored pictures against their originals, metric by metric, with intervals.

python -m train.evaluate SR HQ                        # two folders, or two files
python -m train.evaluate SR HQ --against OTHER        # and the paired difference from another method
python -m train.evaluate SR HQ --lq LQ                # and from the bicubic enlargement of the input
python -m train.evaluate SR --metrics musiq clipiqa   # without originals
python -m train.evaluate SR --lq LQ --metrics drift   # only beside what SR was restored from
python -m train.evaluate SR HQ --report F.html        # and a page to look at
python -m train.evaluate --list                       # the metrics, their libraries and licences

docs/evaluation.md says how to read it. The demo's own table is `python -m train.demo_evaluation`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from osediff_core.commands.console import show
from osediff_core.device.huge_pages import ask_for_huge_pages
from osediff_core.errors import OSEDiffError
from osediff_core.report.page import check_page, write_report
from osediff_core.whole_files import write_whole

from .demo.evaluation import (  # noqa: F401  (they were here, and are imported from here)
    BLURS,
    SCALE,
    best_blur,
    bicubic,
    degraded_pairs,
    format_table,
    measure,
    quantise,
    real_pairs,
    tabulate,
    vae_round_trip,
    write_sheet,
)
from .demo.evaluation import DemoRow as Row  # noqa: F401
from .demo.evaluation import HeldOutPair as Pair  # noqa: F401
from .evaluation.looking import evaluation_report
from .evaluation.metric_table import BEYOND, PAPER, choose_metrics, licence_of, read_metrics, why_missing
from .evaluation.pairs import Pair as NamedPair
from .evaluation.pairs import pair_up, with_inputs
from .evaluation.scores import Measuring, Scores, score, write_scores
from .evaluation.statistics import SEED
from .evaluation.tables import markdown, metric_rows, notes, plain_summary, summaries, value_rows
from .programs.console import refuse, start_console


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("sr", type=Path, nargs="?", metavar="SR", help="restored pictures: a folder or a file")
    add("hq", type=Path, nargs="?", metavar="HQ", help="their originals, of the same names and sizes")
    lq_help = "what SR was restored from: with HQ, its bicubic enlargement is compared, too"
    add("--lq", type=Path, help=lq_help)
    add("--against", type=Path, metavar="OTHER", help="another method's pictures, to compare with")
    metrics_help = "default: those of the paper's tables, and what they do not tell apart"
    add("--metrics", nargs="+", default=(*PAPER, *BEYOND), metavar="NAME", help=metrics_help)
    add("--csv", type=Path, metavar="F", help="write the value of every picture")
    json_help = "keep all values and the summary; run again with the same F to go on where a run stopped"
    add("--json", type=Path, metavar="F", help=json_help)
    report_help = "page to look at, in one file: the table, every picture beside its input and original"
    add("--report", type=Path, metavar="F.html", help=report_help)
    add("--device", default="cpu", help="cpu (default), cuda, mps")
    add("--workers", type=int, default=1, metavar="N", help="processes that measure (default 1)")
    add("--seed", type=int, default=SEED, help="of the bootstrap that the intervals are from")
    add("--list", action="store_true", help="show the table of metrics, and which this machine can compute")
    args = parser.parse_args(argv)
    if not args.list and args.sr is None:
        parser.error("SR is needed: a folder of restored pictures, or one")
    if args.report is not None and (args.hq, args.lq, args.against) == (None, None, None):
        parser.error("--report shows pictures beside others: give HQ, --lq LQ or --against OTHER")
    if args.workers < 1 or args.seed < 0:
        parser.error("--workers must be at least 1, and --seed no negative number")
    return args


def main(argv: list[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    args = parse(argv)
    start_console()
    ask_for_huge_pages(os.environ)
    try:
        show(list_metrics() if args.list else evaluate(args))
    except OSEDiffError as error:
        return refuse(error)
    except KeyboardInterrupt:  # what was measured is in --json
        return 130
    return 0


def evaluate(args: argparse.Namespace) -> str:
    """Measure what the command line names, write the files it asks for, and return the report."""
    metrics = choose_metrics(args.metrics)
    if args.report is not None:
        check_page(args.report)
    places = {label_of(args.sr, "SR"): (args.sr, False)}
    if args.against is not None:
        places[label_of(args.against, "OTHER", places)] = (args.against, False)
    if args.lq is not None and args.hq is not None:  # which says how large the enlargement is
        places["bicubic of LQ"] = (args.lq, True)
    pairs = {label: pair_up(place, args.hq, enlarge=lq) for label, (place, lq) in places.items()}
    if args.lq is not None:
        pairs = {label: with_inputs(found, places[label][0], args.lq) for label, found in pairs.items()}
    if all(place.is_file() for place, _ in places.values()):  # one picture, whatever its files are called
        name = pairs[next(iter(places))][0].name
        pairs = {label: [replace(pair, name=name) for pair in found] for label, found in pairs.items()}
    check_same_pictures(pairs)
    columns: dict[str, Scores] = {}
    for number, (label, of_label) in enumerate(pairs.items()):
        store = store_of(args.json, number, label)
        work = Measuring(args.device, args.workers, label)
        columns[label] = score(of_label, metrics, work, store)
        if store is not None:
            summary = plain_summary(summaries(metrics, columns[label], args.seed))
            write_scores(store, columns[label], summary)
    if args.csv is not None:
        write_whole(args.csv, value_rows(metrics, columns).encode())
    table = metric_rows(metrics, columns, args.seed)
    if args.report is not None:
        write_report(args.report, evaluation_report(metrics, pairs, columns, table))
    told = notes(metrics, [*columns.values()])
    return "\n\n".join(filter(None, [markdown(table.heads, table.rows), told]))


def check_same_pictures(pairs: Mapping[str, Sequence[NamedPair]]) -> None:
    """Raise OSEDiffError where methods were run on different pictures, which cannot be compared."""
    (first, reference), *others = ((label, {p.name for p in found}) for label, found in pairs.items())
    for label, names in others:
        if names != reference:
            odd = ", ".join(sorted(names ^ reference)[:5])
            raise OSEDiffError(
                f"expected {label} to hold the pictures of {first}, they differ in {odd}: give both the same"
            )


def label_of(place: Path, role: str, taken: Collection[str] = ()) -> str:
    """Head a column by the folder's or file's name, or its role where that says nothing or is taken."""
    name = place.resolve().name
    return role if not name or name in taken else name


def store_of(path: Path | None, number: int, label: str) -> Path | None:
    """Where a column's values are kept: F for SR, F with a number before its ending for the others."""
    if path is None or number == 0:
        return path
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


def list_metrics() -> str:
    """Return the table of metrics in Markdown, with what this machine lacks for each."""
    lines = []
    for name, metric in read_metrics().items():
        library = ", ".join(metric.library) or "this project"
        lines.append([name, f"{metric.label} {metric.arrow}", library, licence_of(metric), metric.setting])
    missing = [f"- {name}: {reason}" for name, m in read_metrics().items() if (reason := why_missing(m))]
    table = markdown(["name", "metric", "library", "licence", "setting"], lines)
    return "\n".join([table, "", *(missing or ["All of them can be computed here."])])


if __name__ == "__main__":
    sys.exit(main())

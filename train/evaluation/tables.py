"""What was measured as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from osediff_core.report.page import Table

from .metric_table import NON_COMMERCIAL, Metric, licence_of
from .published import Published
from .scores import Scores
from .statistics import SEED, Summary, paired_difference, summarise

NOTHING = "–"


def summaries(metrics: Mapping[str, Metric], scores: Scores, seed: int = SEED) -> dict[str, Summary]:
    """Return the mean of each metric that was measured; a metric of sets has one value and no interval."""
    found = {}
    for name, metric in metrics.items():
        if name in scores.missing:
            continue
        if name in scores.whole:
            value = scores.whole[name]
            found[name] = Summary(value, -math.inf, math.inf, len(scores.contents))
        elif metric.of != "set" and scores.values.get(name):
            found[name] = summarise([scores.values[name][p] for p in sorted(scores.values[name])], seed)
    return found


def differences(
    metrics: Mapping[str, Metric], ours: Scores, theirs: Scores, seed: int = SEED
) -> dict[str, Summary]:
    """Ours minus theirs of each metric that has a value for each picture of both."""
    lacking = ours.missing.keys() | theirs.missing.keys()
    both = [n for n in metrics if n not in lacking and ours.values.get(n) and theirs.values.get(n)]
    return {name: paired_difference(ours.values[name], theirs.values[name], seed) for name in both}


def metric_rows(metrics: Mapping[str, Metric], columns: Mapping[str, Scores], seed: int = SEED) -> Table:
    """Return a line for each metric, a column for each method; the first is compared with the others."""
    first, *others = columns
    heads = ["", *columns, *(f"{first} minus {other}" for other in others), "pictures"]
    means = {name: summaries(metrics, scores, seed) for name, scores in columns.items()}
    gaps = [differences(metrics, columns[first], columns[other], seed) for other in others]
    lines = []
    for name, metric in metrics.items():
        if not any(name in found for found in means.values()):
            continue
        cells = [with_interval(found.get(name), metric.digits) for found in means.values()]
        cells += [signed(gap.get(name), metric.digits) for gap in gaps]
        lines.append([f"{metric.label} {metric.arrow}", *cells, counted(means[first].get(name))])
    return Table(heads, lines)


def paper_rows(
    metrics: Mapping[str, Metric],
    rows: Sequence[tuple[str, str, Scores, Sequence[str]]],
    extra: Sequence[str],
) -> Table:
    """Return the paper's layout: a line for each (set, method, scores, cells of the columns in `extra`)."""
    lines = []
    for data_set, method, scores, more in rows:
        found = summaries(metrics, scores)
        cells = [number(found[n].mean, m.digits) if n in found else NOTHING for n, m in metrics.items()]
        lines.append([data_set, method, *cells, *more])
    return Table(["set", "method", *_labels(metrics), *extra], lines)


def published_table(metrics: Mapping[str, Metric], rows: Sequence[Published]) -> Table:
    """Return the paper's figures in the same layout, for metrics that the paper has."""
    lines = [
        [row.data_set, row.method]
        + [number(row.figures[n], m.digits) if n in row.figures else NOTHING for n, m in metrics.items()]
        for row in rows
    ]
    return Table(["set", "method", *_labels(metrics)], lines)


def difference_rows(
    metrics: Mapping[str, Metric], rows: Sequence[tuple[str, str, dict[str, Summary]]], reference: str
) -> Table:
    """Return a line for each (set, method, its differences from the reference)."""
    shown = {n: m for n, m in metrics.items() if any(n in found for _, _, found in rows)}
    lines = [
        [data_set, method, *(signed(found.get(n), m.digits) for n, m in shown.items())]
        for data_set, method, found in rows
    ]
    return Table(["set", f"method, minus {reference}", *_labels(shown)], lines)


def notes(metrics: Mapping[str, Metric], all_scores: Sequence[Scores], *, remedies: bool = True) -> str:
    """Return what could not be computed and why, and the licences of libraries that forbid commercial use.

    remedies: also how to get it, which names folders of this machine: not for a page.
    """
    lines = []
    for name, metric in metrics.items():
        reasons = dict.fromkeys(s.missing[name] for s in all_scores if name in s.missing)
        told = reasons if remedies else dict.fromkeys(reason.partition(": ")[0] for reason in reasons)
        lines += [f"- {metric.label}: not computed; {reason}" for reason in told]
        if NON_COMMERCIAL in metric.library and not reasons:
            lines.append(f"- {metric.label}: licence {licence_of(metric)}")
    return "\n".join(lines)


def value_rows(metrics: Mapping[str, Metric], columns: Mapping[str, Scores]) -> str:
    """Every value as CSV: a line for each picture, a column for each metric of each method."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [(label, n) for label, scores in columns.items() for n in metrics if scores.values.get(n)]
    several = len(columns) > 1
    writer.writerow(["picture", *(f"{label}: {metric}" if several else metric for label, metric in heads)])
    names = sorted({name for scores in columns.values() for name in scores.contents})
    for name in names:
        writer.writerow([name, *(columns[label].values[metric].get(name, "") for label, metric in heads)])
    return buffer.getvalue()


def plain_summary(found: Mapping[str, Summary]) -> dict[str, dict[str, float | int | None]]:
    """Summaries for JSON, what is not finite as null."""
    return {
        name: {key: value if math.isfinite(value) else None for key, value in asdict(summary).items()}
        for name, summary in found.items()
    }


def with_interval(summary: Summary | None, digits: int) -> str:
    """ "25.15 [24.50, 25.80]"; without an interval where there is none."""
    if summary is None or summary.count == 0:
        return NOTHING
    mean = number(summary.mean, digits)
    if not math.isfinite(summary.low):
        return mean
    return f"{mean} [{number(summary.low, digits)}, {number(summary.high, digits)}]"


def signed(summary: Summary | None, digits: int) -> str:
    """Return a difference with its sign and interval, bold where zero lies outside."""
    if summary is None or summary.count == 0:
        return NOTHING
    mean = f"{summary.mean:+.{digits}f}"
    if not math.isfinite(summary.low):
        return mean
    text = f"{mean} [{summary.low:+.{digits}f}, {summary.high:+.{digits}f}]"
    return f"**{text}**" if summary.beyond_chance else text


def counted(summary: Summary | None) -> str:
    """How many pictures a mean is of, and how many had no value."""
    if summary is None:
        return NOTHING
    return f"{summary.count}" + (f" ({summary.left_out} without a value)" if summary.left_out else "")


def number(value: float, digits: int) -> str:
    """Return a figure with the decimals of its column."""
    return f"{value:.{digits}f}" if math.isfinite(value) else NOTHING


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; bars in names are escaped."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _labels(metrics: Mapping[str, Metric]) -> list[str]:
    return [f"{metric.label} {metric.arrow}" for metric in metrics.values()]

"""A comparison as a page to look at: its tables, its charts, and every picture by every method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from osediff_core.report.cases import Case, View
from osediff_core.report.page import Figure, Report, Section

from .charts import quality_against_time, radar
from .comparison import (
    Cell,
    ComparisonConfig,
    difference_table,
    differences_text,
    measured_table,
    method_texts,
    published_text,
    restored_pairs,
)
from .data_sets import open_set
from .methods import MethodConfig
from .metric_table import Metric, choose_metrics
from .published import published_rows
from .tables import NOTHING, notes, number, published_table, summaries

ENDS = 5
"""Worst and best pictures that stand first."""
FILES = ("base", "weights", "tagger", "file", "outputs")
"""Settings of a method that name files, of which a page tells the names alone."""


@dataclass(frozen=True)
class Picture:
    """One picture of a test set: its files, and of each method what was restored and its metrics' values."""

    data_set: str
    name: str
    lq: Path
    hq: Path
    restored: dict[str, Path]
    values: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Terms:
    """What pictures are judged by: metrics that each picture has, our method, what it is compared with."""

    metrics: dict[str, Metric]
    ours: str
    reference: str

    def gap(self, picture: Picture, metric: str) -> float:
        """Our method minus the reference, or our method's value where there is none."""
        base = picture.values[self.reference][metric] if self.reference else 0.0
        return picture.values[self.ours][metric] - base


def comparison_report(config: ComparisonConfig, cells: Sequence[Cell]) -> Report:
    """Lay out what was measured, with the pictures, the worst and the best of our method first."""
    metrics = choose_metrics(config.metrics)
    terms = _terms(config, metrics, cells)
    heads = [f"{terms.ours}: {m.label} {m.arrow}" for m in terms.metrics.values()]
    if terms.reference:
        heads += [f"minus {terms.reference}: {m.label}" for m in terms.metrics.values()]
    return Report(
        "Comparison of methods",
        [_case(config, terms, picture, called) for picture, called in _ranked(config, terms, cells)],
        _order(terms),
        _sections(config, metrics, cells),
        ["set", "case", *heads],
        _settings(config, cells),
    )


def our_method(config: ComparisonConfig) -> str:
    """The method that the page is about: the first OSEDiff checkpoint, else the first but the reference."""
    names = [name for name, method in config.methods.items() if method.kind == "ours"]
    names += [name for name in config.methods if name != config.reference]
    return [*names, *config.methods][0]


def _terms(config: ComparisonConfig, metrics: Mapping[str, Metric], cells: Sequence[Cell]) -> Terms:
    ours = our_method(config)
    each = {
        name: metric
        for name, metric in metrics.items()
        if all(name not in cell.scores.missing and cell.scores.values.get(name) for cell in cells)
    }
    return Terms(each, ours, config.reference if config.reference != ours else "")


def _sections(
    config: ComparisonConfig, metrics: Mapping[str, Metric], cells: Sequence[Cell]
) -> list[Section]:
    missing = notes(metrics, [cell.scores for cell in cells], remedies=False)
    told = [line.removeprefix("- ") for line in missing.splitlines()]
    sections = [Section("Measured", told, [measured_table(metrics, cells)], _charts(metrics, cells))]
    if config.reference:
        differences = difference_table(config.reference, metrics, cells)
        sections.append(Section("Differences", [differences_text(config.reference)], [differences]))
    published = [row for name in config.sets for row in published_rows(name)]
    if published:
        drawn = [_published_radar(name, metrics) for name in config.sets]
        figures = [figure for figure in drawn if figure is not None]
        table = published_table(metrics, published)
        sections.append(Section("Published", [published_text()], [table], figures))
    return sections


def _charts(metrics: Mapping[str, Metric], cells: Sequence[Cell]) -> list[Figure]:
    """A radar of each set, and each metric against time."""
    figures = []
    for name in dict.fromkeys(cell.data_set for cell in cells):
        of_set = [cell for cell in cells if cell.data_set == name]
        means = {c.method: {n: s.mean for n, s in summaries(metrics, c.scores).items()} for c in of_set}
        figures.append(radar(name, metrics, means))
        for metric, row in metrics.items():
            points = {
                c.method: (c.run.typical, means[c.method][metric])
                for c in of_set
                if c.run is not None
                and c.run.typical
                and math.isfinite(means[c.method].get(metric, math.nan))
            }
            figures.append(quality_against_time(name, row, points))
    return [figure for figure in figures if figure is not None]


def _published_radar(name: str, metrics: Mapping[str, Metric]) -> Figure | None:
    """The paper's own figure, of the diffusion methods of its Table 1."""
    rows = {row.method: row.figures for row in published_rows(name) if row.table == 1}
    return radar(f"{name}, as published", metrics, rows)


def _pictures(config: ComparisonConfig, cells: Sequence[Cell]) -> list[Picture]:
    """All pictures of all sets, in the order of sets and names."""
    scores = {(cell.data_set, cell.method): cell.scores.values for cell in cells}
    found = []
    for name, where in config.sets.items():
        data = open_set(name, where)
        files = {m: {p.name: p.sr for p in restored_pairs(config, data, m)} for m in config.methods}
        for pair in data.pairs:
            assert pair.hq is not None
            values = {
                method: {n: of.get(pair.name, math.nan) for n, of in scores[name, method].items()}
                for method in config.methods
            }
            restored = {method: of_method[pair.name] for method, of_method in files.items()}
            found.append(Picture(name, pair.name, pair.sr, pair.hq, restored, values))
    return found


def _ranked(config: ComparisonConfig, terms: Terms, cells: Sequence[Cell]) -> list[tuple[Picture, str]]:
    """The worst pictures and the best of our method by the first metric, so called, and then the others."""
    pictures = _pictures(config, cells)
    if not terms.metrics:
        return [(picture, NOTHING) for picture in pictures]
    name, metric = next(iter(terms.metrics.items()))
    sign = 1 if metric.better == "higher" else -1
    valued = [picture for picture in pictures if math.isfinite(terms.gap(picture, name))]
    valued.sort(key=lambda picture: sign * terms.gap(picture, name))
    ends = min(ENDS, len(valued) // 2)
    first = [(picture, f"worst {n}") for n, picture in enumerate(valued[:ends], 1)]
    first += [(picture, f"best {n}") for n, picture in enumerate(valued[::-1][:ends], 1)]
    placed = {id(picture) for picture, _ in first}
    return first + [(picture, NOTHING) for picture in pictures if id(picture) not in placed]


def _order(terms: Terms) -> str:
    if not terms.metrics:
        return "Pictures in the order of their names: no metric has values of single pictures."
    first = next(iter(terms.metrics.values()))
    minus = f", compared with {terms.reference}" if terms.reference else ""
    return (
        f"The {ENDS} worst and the {ENDS} best pictures come first, by {first.label} of {terms.ours}{minus}; "
        "then the others by name. The heads of the table sort it."
    )


def _case(config: ComparisonConfig, terms: Terms, picture: Picture, called: str) -> Case:
    """A picture with the input, its bicubic enlargement, each method and the original."""
    views = [View("LQ", picture.lq, "nearest")]
    if all(method.kind != "bicubic" for method in config.methods.values()):
        views.append(View("bicubic", picture.lq, "bicubic"))
    main = len(views) + list(picture.restored).index(terms.ours)
    for method, path in picture.restored.items():
        measured = picture.values[method]
        told = [f"{m.label} {number(measured[n], m.digits)}" for n, m in terms.metrics.items()]
        views.append(View(method, path, note="; ".join(told)))
    views.append(View("HQ", picture.hq))
    cells = [number(picture.values[terms.ours][n], m.digits) for n, m in terms.metrics.items()]
    if terms.reference:
        gaps = [(terms.gap(picture, n), m.digits) for n, m in terms.metrics.items()]
        cells += [f"{gap:+.{digits}f}" if math.isfinite(gap) else NOTHING for gap, digits in gaps]
    return Case(picture.name, views, main, len(views) - 1, [picture.data_set, called, *cells])


def _settings(config: ComparisonConfig, cells: Sequence[Cell]) -> dict[str, str]:
    """How everything was made: methods, libraries, numbers of pictures; of files their names alone."""
    told = {f"method {name}": text for name, text in method_texts(cells).items()}
    for name, method in config.methods.items():
        told[f"method {name}"] += "".join(f"; {text}" for text in _changed(method))
    for name, metric in choose_metrics(config.metrics).items():
        made_with = {c.scores.made_with[name] for c in cells if name in c.scores.made_with}
        if made_with and any(name not in cell.scores.missing for cell in cells):
            told[metric.label] = " | ".join(sorted(made_with))
    counts = {cell.data_set: len(cell.scores.contents) for cell in cells}
    told["pictures"] = ", ".join(f"{name} {count}" for name, count in counts.items())
    told |= {name: str(getattr(config, name)) for name in ("device", "threads", "workers")}
    return told


def _changed(method: MethodConfig) -> list[str]:
    """The settings of a method that are not the usual ones."""
    values = asdict(method)
    changed = [f.name for f in fields(method) if f.name != "kind" and values[f.name] != f.default]
    return [f"{name} {Path(values[name]).name if name in FILES else values[name]}" for name in changed]

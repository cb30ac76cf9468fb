"""What was measured as a page to look at: tables, charts, and every picture by every method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from osediff_core.report.cases import Case, View
from osediff_core.report.page import Figure, Report, Section, Table

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
from .pairs import Pair
from .published import published_rows
from .scores import Scores
from .tables import NOTHING, notes, number, published_table, summaries

ENDS = 5
"""Worst and best pictures that stand first."""
FILES = ("base", "weights", "tagger", "file", "outputs")
"""Settings of a method that name files, of which a page tells the names alone."""


@dataclass(frozen=True)
class TestPicture:
    """One picture of a test set: its files, and of each method what was restored and its metrics' values."""

    data_set: str
    name: str
    lq: Path | None
    hq: Path | None
    restored: dict[str, Path]
    values: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Terms:
    """What pictures are judged by: metrics that each picture has, our method, what it is compared with.

    enlarged: whether the bicubic enlargement is to be shown, which no method is.
    """

    metrics: dict[str, Metric]
    ours: str
    reference: str
    enlarged: bool

    def gap(self, picture: TestPicture, metric: str) -> float:
        """Our method minus the reference, or our method's value where there is none."""
        base = picture.values[self.reference][metric] if self.reference else 0.0
        return picture.values[self.ours][metric] - base


def comparison_report(config: ComparisonConfig, cells: Sequence[Cell]) -> Report:
    """Lay out what was measured, with the pictures, the worst and the best of our method first."""
    metrics = choose_metrics(config.metrics)
    ours = our_method(config)
    terms = Terms(
        _of_each_picture(metrics, [cell.scores for cell in cells]),
        ours,
        config.reference if config.reference != ours else "",
        all(method.kind != "bicubic" for method in config.methods.values()),
    )
    return _laid_out(
        "Comparison of methods",
        terms,
        _pictures(config, cells),
        _sections(config, metrics, cells),
        _settings(config, cells),
    )


def evaluation_report(
    metrics: Mapping[str, Metric],
    pairs: Mapping[str, Sequence[Pair]],
    columns: Mapping[str, Scores],
    table: Table,
) -> Report:
    """Lay out columns that were measured, the first compared with the second, with the table of their means.

    Its pictures need something to be shown beside: an original, an input, or another method's.
    """
    ours, *others = columns
    files = {label: {p.name: p.sr for p in found} for label, found in pairs.items() if not found[0].enlarge}
    pictures = [
        TestPicture(
            "",
            p.name,
            p.lq,
            p.hq,
            {label: by_name[p.name] for label, by_name in files.items()},
            {
                label: {n: of.get(p.name, math.nan) for n, of in scores.values.items()}
                for label, scores in columns.items()
            },
        )
        for p in pairs[ours]
    ]
    scores = [*columns.values()]
    terms = Terms(_of_each_picture(metrics, scores), ours, others[0] if others else "", True)
    means = {label: {n: s.mean for n, s in summaries(metrics, of).items()} for label, of in columns.items()}
    drawn = radar("Measured", metrics, means) if others else None
    section = Section("Measured", _told(metrics, scores), [table], [drawn] if drawn else [])
    settings = _made_with(metrics, scores) | {"pictures": str(len(pictures))}
    return _laid_out("Measured pictures", terms, pictures, [section], settings)


def _laid_out(
    title: str,
    terms: Terms,
    pictures: Sequence[TestPicture],
    sections: Sequence[Section],
    settings: Mapping[str, str],
) -> Report:
    """Return a report of these pictures, the worst and the best first."""
    heads = [f"{m.label} {m.arrow}" for m in terms.metrics.values()]
    if terms.reference:
        heads += [f"minus {terms.reference}: {m.label}" for m in terms.metrics.values()]
    several = any(picture.data_set for picture in pictures)
    cases = [_case(terms, picture, called) for picture, called in _ranked(terms, pictures)]
    return Report(
        title, cases, _order(terms), sections, [*(["set"] if several else []), "case", *heads], settings
    )


def our_method(config: ComparisonConfig) -> str:
    """Name the page's method: the first OSEDiff checkpoint, else the first but the reference."""
    names = [name for name, method in config.methods.items() if method.kind == "ours"]
    names += [name for name in config.methods if name != config.reference]
    return [*names, *config.methods][0]


def _of_each_picture(metrics: Mapping[str, Metric], scores: Sequence[Scores]) -> dict[str, Metric]:
    """Return the metrics that all columns have values of, picture by picture."""
    return {
        name: metric
        for name, metric in metrics.items()
        if all(
            name not in one.missing and any(map(math.isfinite, one.values.get(name, {}).values()))
            for one in scores
        )
    }


def _told(metrics: Mapping[str, Metric], scores: Sequence[Scores]) -> list[str]:
    """Return what could not be computed, without what only helps at this machine."""
    return [line.removeprefix("- ") for line in notes(metrics, scores, remedies=False).splitlines()]


def _sections(
    config: ComparisonConfig, metrics: Mapping[str, Metric], cells: Sequence[Cell]
) -> list[Section]:
    told = _told(metrics, [cell.scores for cell in cells])
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
    """Return a radar of each set, and each metric against time."""
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
    """Return the paper's own figure, of the diffusion methods of its Table 1."""
    rows = {row.method: row.figures for row in published_rows(name) if row.table == 1}
    return radar(f"{name}, as published", metrics, rows)


def _pictures(config: ComparisonConfig, cells: Sequence[Cell]) -> list[TestPicture]:
    """All pictures of all sets, in the order of sets and names."""
    scores = {(cell.data_set, cell.method): cell.scores.values for cell in cells}
    found = []
    for name, where in config.sets.items():
        data = open_set(name, where)
        files = {m: {p.name: p.sr for p in restored_pairs(config, data, m)} for m in config.methods}
        for pair in data.pairs:
            values = {
                method: {n: of.get(pair.name, math.nan) for n, of in scores[name, method].items()}
                for method in config.methods
            }
            restored = {method: of_method[pair.name] for method, of_method in files.items()}
            found.append(TestPicture(name, pair.name, pair.sr, pair.hq, restored, values))
    return found


def _ranked(terms: Terms, pictures: Sequence[TestPicture]) -> list[tuple[TestPicture, str]]:
    """Order pictures: our method's worst and best by the first metric, so called, and then the others."""
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
        f"then the others by name. Values are of {terms.ours}; the heads of the table sort it."
    )


def _case(terms: Terms, picture: TestPicture, called: str) -> Case:
    """Show a picture: input, bicubic enlargement, each method and original, as far as they are there."""
    views = []
    if picture.lq is not None:
        views.append(View("LQ", picture.lq, "nearest"))
        if terms.enlarged:
            views.append(View("bicubic", picture.lq, "bicubic"))
    main = len(views) + list(picture.restored).index(terms.ours)
    for method, path in picture.restored.items():
        measured = picture.values[method]
        told = [f"{m.label} {number(measured[n], m.digits)}" for n, m in terms.metrics.items()]
        views.append(View(method, path, note="; ".join(told)))
    other = main - 1 if picture.lq is not None else main + 1
    if picture.hq is not None:
        views.append(View("HQ", picture.hq))
        other = len(views) - 1
    cells = [number(picture.values[terms.ours][n], m.digits) for n, m in terms.metrics.items()]
    if terms.reference:
        gaps = [(terms.gap(picture, n), m.digits) for n, m in terms.metrics.items()]
        cells += [f"{gap:+.{digits}f}" if math.isfinite(gap) else NOTHING for gap, digits in gaps]
    where = [picture.data_set] if picture.data_set else []
    return Case(picture.name, views, main, other, [*where, called, *cells])


def _settings(config: ComparisonConfig, cells: Sequence[Cell]) -> dict[str, str]:
    """How everything was made: methods, libraries, numbers of pictures; of files their names alone."""
    told = {f"method {name}": text for name, text in method_texts(cells).items()}
    for name, method in config.methods.items():
        told[f"method {name}"] += "".join(f"; {text}" for text in _changed(method))
    told |= _made_with(choose_metrics(config.metrics), [cell.scores for cell in cells])
    counts = {cell.data_set: len(cell.scores.contents) for cell in cells}
    told["pictures"] = ", ".join(f"{name} {count}" for name, count in counts.items())
    told |= {name: str(getattr(config, name)) for name in ("device", "threads", "workers")}
    return told


def _made_with(metrics: Mapping[str, Metric], scores: Sequence[Scores]) -> dict[str, str]:
    """Libraries and settings of the metrics that were computed."""
    told = {}
    for name, metric in metrics.items():
        made_with = {one.made_with[name] for one in scores if name in one.made_with}
        if made_with and any(name not in one.missing for one in scores):
            told[metric.label] = " | ".join(sorted(made_with))
    return told


def _changed(method: MethodConfig) -> list[str]:
    """Return the settings of a method that are not the usual ones."""
    values = asdict(method)
    changed = [f.name for f in fields(method) if f.name != "kind" and values[f.name] != f.default]
    return [f"{name} {Path(values[name]).name if name in FILES else values[name]}" for name in changed]

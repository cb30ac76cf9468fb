"""Methods by test sets: restore, measure, and lay out beside the paper's figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from osediff_core.errors import OSEDiffError
from osediff_core.report.page import Table

from .data_sets import DataSet, SetConfig, open_set
from .methods import MethodConfig, outputs_folder
from .metric_table import PAPER, Metric, choose_metrics
from .pairs import Pair
from .published import published_rows, read_published
from .restoring import Run, restore_set
from .scores import Measuring, Scores, score
from .statistics import RESAMPLES
from .tables import NOTHING, difference_rows, differences, markdown, notes, paper_rows, published_table


@dataclass(frozen=True)
class ComparisonConfig:
    """A comparison: which methods, on which sets, measured how."""

    out: str = "benchmark"
    """Folder of the restored pictures and of what was measured."""
    sets: dict[str, SetConfig] = field(default_factory=dict)
    """Test sets, by the names that the table gives them; RealSR, DRealSR and DIV2K-Val are the paper's."""
    methods: dict[str, MethodConfig] = field(default_factory=dict)
    """Methods, by the names that the table gives them."""
    metrics: tuple[str, ...] = PAPER
    """Columns of the table."""
    reference: str = ""
    """The method that the others are compared with, picture by picture; empty for none."""
    device: str = "cpu"
    """Where it is computed: cpu, cuda, cuda:1, mps."""
    threads: int = 1
    """Threads of a restoring process."""
    workers: int = 1
    """Processes that measure."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, before anything is computed."""
        if not self.sets or not self.methods:
            raise OSEDiffError("a comparison needs test sets, [sets.NAME], and methods, [methods.NAME]")
        choose_metrics(self.metrics)
        if self.reference and self.reference not in self.methods:
            raise OSEDiffError(f"`reference` must be one of the methods, got {self.reference!r}")
        if self.threads < 1 or self.workers < 1:
            raise OSEDiffError("`threads` and `workers` must be at least 1")
        for names in (self.sets, self.methods):
            folders = [folder_name(name) for name in names]
            if len(set(folders)) < len(folders):
                raise OSEDiffError(f"these names differ too little to be folders: {', '.join(names)}")


def folder_name(name: str) -> str:
    """Return what a method's or set's folder is called: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"


def place_of(config: ComparisonConfig, data: DataSet, method: str) -> Path:
    """Return the folder that a method's pictures of a set are restored into."""
    return Path(config.out) / folder_name(data.name) / folder_name(method)


@dataclass(frozen=True)
class Cell:
    """One method on one set: what was measured, and what restoring took; of pictures that came, nothing."""

    data_set: str
    method: str
    scores: Scores
    run: Run | None


def compare(config: ComparisonConfig) -> list[Cell]:
    """Restore and measure every method on every set, set by set. What is there from before is kept.

    Raises OSEDiffError, before anything is restored, for sets and pictures that are missing.
    """
    metrics = choose_metrics(config.metrics)
    sets = [open_set(name, where) for name, where in config.sets.items()]
    for data in sets:
        for method in config.methods.values():
            if method.kind == "folder":
                data.paired_with(outputs_folder(method, data))
    return [_cell(config, metrics, data, method) for data in sets for method in config.methods]


def _cell(config: ComparisonConfig, metrics: Mapping[str, Metric], data: DataSet, method: str) -> Cell:
    chosen, out = config.methods[method], place_of(config, data, method)
    run = None
    if chosen.kind != "folder":
        run = restore_set(chosen, data, out, config.device, config.threads)
    pairs = restored_pairs(config, data, method)
    store = out.with_name(f"{out.name}.json")
    store.parent.mkdir(parents=True, exist_ok=True)
    work = Measuring(config.device, config.workers, f"{data.name}, {method}")
    return Cell(data.name, method, score(pairs, metrics, work, store), run)


def restored_pairs(config: ComparisonConfig, data: DataSet, method: str) -> list[Pair]:
    """Return where a method's pictures of a set are, with their originals, under the names of the set."""
    chosen, out = config.methods[method], place_of(config, data, method)
    if chosen.kind == "folder":
        return data.paired_with(outputs_folder(chosen, data))
    return [Pair(pair.name, out / f"{pair.name}.png", pair.hq, lq=pair.sr) for pair in data.pairs]


def report(config: ComparisonConfig, cells: Sequence[Cell]) -> str:
    """All tables as Markdown: what was measured, differences from the reference, and the paper's figures."""
    metrics = choose_metrics(config.metrics)
    parts = ["## Measured", _what(cells), _markdown(measured_table(metrics, cells))]
    parts.append(notes(metrics, [cell.scores for cell in cells], remedies=False))
    if config.reference:
        parts += [
            differences_text(config.reference),
            _markdown(difference_table(config.reference, metrics, cells)),
        ]
    published = [row for name in config.sets for row in published_rows(name)]
    if published:
        parts += ["## Published", published_text(), _markdown(published_table(metrics, published))]
    return "\n\n".join(part for part in parts if part)


def measured_table(metrics: Mapping[str, Metric], cells: Sequence[Cell]) -> Table:
    """Return the paper's table of what was measured, with what restoring took."""
    rows = [(cell.data_set, cell.method, cell.scores, _taken(cell.run)) for cell in cells]
    return paper_rows(metrics, rows, ("s/picture", "peak, GiB"))


def difference_table(reference: str, metrics: Mapping[str, Metric], cells: Sequence[Cell]) -> Table:
    """Each other method's differences from the reference, set by set."""
    base = {cell.data_set: cell.scores for cell in cells if cell.method == reference}
    others = [cell for cell in cells if cell.method != reference]
    gaps = [(c.data_set, c.method, differences(metrics, c.scores, base[c.data_set])) for c in others]
    return difference_rows(metrics, gaps, reference)


def differences_text(reference: str) -> str:
    """How the table of differences is read."""
    return (
        f"Each picture minus {reference}'s: mean, and 95 % interval of {RESAMPLES} resamples "
        "over the pictures; bold where zero lies outside."
    )


def published_text() -> str:
    """Where the published figures are from."""
    return f"Stated by {read_published()[1]}; nothing in this table was measured here."


def remedies(config: ComparisonConfig, cells: Sequence[Cell]) -> str:
    """How to get what was missing on this machine; empty where nothing was."""
    return notes(choose_metrics(config.metrics), [cell.scores for cell in cells if cell.scores.missing])


def _what(cells: Sequence[Cell]) -> str:
    """How many pictures each set has, and what each method is."""
    sets = {cell.data_set: len(cell.scores.contents) for cell in cells}
    heads = ", ".join(f"{name}: {count} pictures" for name, count in sets.items()) + "."
    return "\n".join([heads, "", *(f"- {name}: {text}" for name, text in method_texts(cells).items())])


def method_texts(cells: Sequence[Cell]) -> dict[str, str]:
    """Return what each method is, and where it ran."""
    texts = {}
    for method in dict.fromkeys(cell.method for cell in cells):
        runs = {cell.data_set: cell.run for cell in cells if cell.method == method and cell.run}
        what = {name: f"{run.what}; {run.machine}{_repeated(run)}" for name, run in runs.items()}
        same = len(set(what.values())) == 1
        told = next(iter(what.values())) if same else "; ".join(f"{text} for {n}" for n, text in what.items())
        texts[method] = told or "pictures that somebody else restored"
    return texts


def _repeated(run: Run) -> str:
    """How far the picture that was restored twice differs, where that was looked at."""
    return "" if run.repeat is None else f"; run to run {run.repeat} levels apart at most"


def _taken(run: Run | None) -> tuple[str, str]:
    """Median seconds of a picture, and peak memory of the process in GiB."""
    if run is None or run.typical is None:
        return NOTHING, NOTHING
    return f"{run.typical:.2f}", f"{run.peak / 2**30:.2f}" if run.peak else NOTHING


def _markdown(table: Table) -> str:
    return markdown(table.heads, table.rows)

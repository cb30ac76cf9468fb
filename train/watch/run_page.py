"""A training as a page to look at: its curves, and its sample pictures as they came to be."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from osediff_core.pictures.formats import size_of
from osediff_core.report.cases import Case, View
from osediff_core.report.page import Report, Section, Table

from ..config import TrainConfig
from .curves import Curves, draw

STAGES = 6
"""Steps whose pictures are shown at most, the first and the last among them."""
COLUMNS = 3
"""LQ, SR and HQ of a sheet of samples, whose pictures are square."""
MEASURES = "validation/"
PATHS = (
    "base",
    "vocabulary",
    "init_from",
    "critic_from",
    "beneath",
    "sources",
    "lq_sources",
    "validation",
    "out",
    "file",
    "tagger",
    "dape",
)
"""Settings that name files and folders, of which a page tells the names alone."""


def run_page(config: TrainConfig, curves: Curves) -> Report:
    """Lay out what a run has left in its folder so far."""
    out = Path(config.run.out)
    sheets = {step: sample_sheet(out, step) for step, _ in _measured(curves)}
    steps = spread([step for step, sheet in sheets.items() if sheet.is_file()], STAGES)
    return Report(
        f"Training {out.name}",
        _cases([(step, sheets[step]) for step in steps]),
        "The sample pictures, from the input over the steps of the training to the original.",
        _sections(curves, steps),
        settings=changed_settings(config)
        | {"steps so far": str(curves.entries[-1][0] if curves.entries else 0)},
    )


def sample_sheet(out: Path, step: int) -> Path:
    """Where the sample pictures of a step are, a row LQ | SR | HQ each."""
    return out / "samples" / f"{step:07d}.png"


def spread(steps: list[int], count: int) -> list[int]:
    """Choose at most `count` of the steps, evenly, with the first and the last."""
    if len(steps) <= count:
        return steps
    return [steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)]


def changed_settings(config: TrainConfig) -> dict[str, str]:
    """Return the settings that differ from the published defaults, section by section."""
    told = {}
    for section in dataclasses.fields(config):
        ours, usual = getattr(config, section.name), section.default_factory()  # pyright: ignore[reportCallIssue]
        for field in dataclasses.fields(ours):
            value = getattr(ours, field.name)
            if value != getattr(usual, field.name):
                told[f"{section.name}.{field.name}"] = _named(value) if field.name in PATHS else str(value)
    return told


def _named(value: object) -> str:
    several = value if isinstance(value, tuple | list) else (value,)
    return ", ".join(Path(str(one)).name for one in several)


def _measured(curves: Curves) -> list[tuple[int, dict[str, float]]]:
    """Return the steps at which the samples were measured, with the measures."""
    found = []
    for step, values in curves.entries:
        measures = {n.removeprefix(MEASURES): v for n, v in values.items() if n.startswith(MEASURES)}
        if measures:
            found.append((step, measures))
    return found


def _sections(curves: Curves, steps: list[int]) -> list[Section]:
    drawn = {name: draw(name, curves.of(name)) for name in curves.names}
    samples = [figure for name, figure in drawn.items() if figure and name.startswith(MEASURES)]
    others = [figure for name, figure in drawn.items() if figure and not name.startswith(MEASURES)]
    measures = [(step, values) for step, values in _measured(curves) if step in steps]
    heads = [*dict.fromkeys(name for _, values in measures for name in values)]
    rows = [
        [str(step), *(f"{values[n]:.4f}" if n in values else "–" for n in heads)] for step, values in measures
    ]
    sections = [Section("Samples", (), [Table(["step", *heads], rows)], samples)] if measures else []
    return [*sections, Section("Curves", (), (), others)] if others else sections


def _cases(sheets: list[tuple[int, Path]]) -> list[Case]:
    """Return a case for each row of the sheets."""
    if not sheets:
        return []
    sizes = [_size(path) for _, path in sheets]
    side = sizes[0][0] // COLUMNS
    count = min(height for _, height in sizes) // side
    return [_case(row, side, sheets) for row in range(count)]


def _size(sheet: Path) -> tuple[int, int]:
    with sheet.open("rb") as file:
        return size_of(file, sheet.name)  # (width, height)


def _case(row: int, side: int, sheets: list[tuple[int, Path]]) -> Case:
    def view(label: str, sheet: Path, column: int) -> View:
        return View(label, sheet, part=(row * side, column * side, side, side))

    views = [view("LQ", sheets[-1][1], 0), *(view(f"step {step}", sheet, 1) for step, sheet in sheets)]
    views.append(view("HQ", sheets[-1][1], 2))
    return Case(f"picture {row + 1}", views, len(views) - 2, len(views) - 1)

"""The numbers of a run over its steps: kept in a file, drawn as SVG."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from osediff_core.report.page import Figure, text_of
from osediff_core.whole_files import write_whole

FILE = "numbers.jsonl"
POINTS = 300
"""Points of a drawn curve at most: of more entries, the means of as many that follow one another."""
LOG_FROM = 100
"""How many times the least value the greatest is where a curve gets a logarithmic axis."""
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 480, 190, 62, 26, 164
DOTS = 40
"""Points that are marked one by one: of more, the line alone shows."""


class Curves:
    """Numbers by step, those of an interrupted run included."""

    def __init__(self, out: Path, start: int = 0) -> None:
        """Go on after step `start` with what `out`/numbers.jsonl has up to there."""
        self.path = out / FILE
        self.entries: list[tuple[int, dict[str, float]]] = []
        if start and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            self.entries = [entry for entry in map(_entry, lines) if entry and entry[0] <= start]
        out.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, "".join(_line(*entry) for entry in self.entries).encode())

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Keep numbers by name."""
        self.entries.append((step, dict(values)))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(*self.entries[-1]))

    def of(self, name: str) -> list[tuple[int, float]]:
        """Return the steps and finite values of one curve."""
        found = [(step, values[name]) for step, values in self.entries if name in values]
        return [(step, value) for step, value in found if math.isfinite(value)]

    @property
    def names(self) -> list[str]:
        """All curves, by name."""
        return sorted({name for _, values in self.entries for name in values})


def _line(step: int, values: Mapping[str, float]) -> str:
    plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return json.dumps({"step": step, **plain}) + "\n"


def _entry(line: str) -> tuple[int, dict[str, float]] | None:
    """Read a line; None for one that was cut off when the run was killed."""
    try:
        values = json.loads(line)
        step = int(values.pop("step"))
        return step, {name: math.nan if value is None else float(value) for name, value in values.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def draw(name: str, points: Sequence[tuple[int, float]]) -> Figure | None:
    """Draw one curve over its steps; None for fewer than two points."""
    if len(points) < 2:
        return None
    each = math.ceil(len(points) / POINTS)
    parts = [points[i : i + each] for i in range(0, len(points), each)]
    steps, values = zip(*((fmean(s for s, _ in p), fmean(v for _, v in p)) for p in parts), strict=True)
    low, high = min(values), max(values)
    logarithmic = low > 0 and high > LOG_FROM * low
    up = [math.log(v) if logarithmic else v for v in values]
    places = [
        (LEFT + (WIDTH - 8 - LEFT) * _part(s, steps), BOTTOM - (BOTTOM - TOP) * _part(u, up))
        for s, u in zip(steps, up, strict=True)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = [
        f'<path class="grid" d="M{LEFT} {TOP}V{BOTTOM}H{WIDTH - 8}"/>',
        f'<polyline class="c0 curve" points="{line}"/>',
        *(
            f'<circle class="c0 dot" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
            for x, y in places
            if len(places) <= DOTS
        ),
        f'<text x="4" y="14">{text_of(name)}</text>',
        f'<text x="{WIDTH - 8}" y="14" text-anchor="end">last {values[-1]:.4g}</text>',
        f'<text class="soft" x="{LEFT - 6}" y="{TOP + 4}" text-anchor="end">{high:.4g}</text>',
        f'<text class="soft" x="{LEFT - 6}" y="{BOTTOM}" text-anchor="end">{low:.4g}</text>',
        f'<text class="soft" x="{LEFT}" y="{BOTTOM + 16}">step {points[0][0]}</text>',
        f'<text class="soft" x="{WIDTH - 8}" y="{BOTTOM + 16}" text-anchor="end">{points[-1][0]}</text>',
    ]
    notes = [f"each point the mean of {each} entries"] if each > 1 else []
    notes += ["logarithmic"] if logarithmic else []
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text_of(name)}">{"".join(drawn)}</svg>'
    )
    return Figure("; ".join(notes), svg)


def _part(value: float, values: Sequence[float]) -> float:
    """Where a value lies between the least, 0, and the greatest, 1; in the middle where they are equal."""
    low, high = min(values), max(values)
    return (value - low) / (high - low) if high > low else 0.5

"""The page and the file of what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.card.log import STATE
from osediff_core.whole_files import write_whole
from train.evaluation.tables import markdown

Row = Mapping[str, str | float | None]
PAGE, FILE = "card.md", "card.json"
HEAD = """# {device}

Written by `python -m benchmarks.card`. Weights: {weights}. What was not run is named with its reason.

{about}

dB: nearness to the reference, more is nearer. Levels: the largest difference, of 255. GiB are beyond what
was there before: of a card what PyTorch allocated; of a processor what the process grew by, 0 where earlier
rows had left room. TMACs: 1e12 multiply-accumulates. Of the matrix peak: the share of the rate of the fastest
product. First: with what is prepared once, and counted meanwhile. Warm: the fastest of several runs.
"""


def write(
    out: Path, about: Mapping[str, str], weights: str, tables: Mapping[str, Sequence[Row]]
) -> tuple[Path, Path]:
    """Write a Markdown page and a JSON file into a folder, and return both."""
    said = "\n".join(f"- {name}: {text}" for name, text in about.items())
    parts = [HEAD.format(device=about["device"], weights=weights, about=said)]
    parts += [f"## {title}\n\n{table(rows)}\n" for title, rows in tables.items()]
    out.mkdir(parents=True, exist_ok=True)
    page, file = out / PAGE, out / FILE
    write_whole(page, "\n".join(parts).encode())
    content = {"about": dict(about), "weights": weights, "tables": tables}
    write_whole(file, (json.dumps(content, indent=1) + "\n").encode())
    return page, file


def table(rows: Sequence[Row]) -> str:
    """Return rows as a table of Markdown; its last column says what kept rows from being measured."""
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name != STATE]
    columns += [STATE] if any(STATE in row for row in rows) else []
    return markdown(columns, [[cell(row.get(name)) for name in columns] for row in rows])


def cell(value: str | float | None) -> str:
    """Return a number with three digits that count, and text as it is."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else value

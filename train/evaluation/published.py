"""The figures that the paper states, kept apart from all that is measured here: `published.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from osediff_core.text_files import read_text

from ..programs.tables import parse_toml


@dataclass(frozen=True)
class Published:
    """One row of the paper's Table 1 or 7: figures by the names of the metrics."""

    data_set: str
    method: str
    table: int
    figures: dict[str, float]


@cache
def read_published() -> tuple[list[Published], str]:
    """All rows, in the order of the paper, and where they are from."""
    content = parse_toml(read_text(Path(__file__).with_name("published.toml")))
    names = content["metrics"]
    rows = [
        Published(data_set, method, number, dict(zip(names, figures, strict=True)))
        for number, sets in ((1, content["table1"]), (7, content["table7"]))
        for data_set, methods in sets.items()
        for method, figures in methods.items()
    ]
    return rows, content["source"]


def published_rows(data_set: str) -> list[Published]:
    """Return the rows of a set, OSEDiff last; none for a set that the paper does not have."""
    rows = [row for row in read_published()[0] if row.data_set == data_set]
    return sorted(rows, key=lambda row: row.method.startswith("OSEDiff"))

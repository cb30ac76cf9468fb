"""The table of metrics, `metrics.toml`, and what of it can be computed on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from osediff_core.errors import OSEDiffError
from osediff_core.text_files import read_text

from ..programs.tables import from_table, parse_toml

PAPER = ("psnr", "ssim", "lpips", "dists", "fid", "niqe", "musiq", "maniqa", "clipiqa")
"""The metrics of the paper's Tables 1 and 7, in their order."""
BEYOND = ("borders", "drift", "shift", "noise", "text", "face")
"""What those do not tell apart."""
ABSENT = "absent"
NON_COMMERCIAL = "pyiqa"
"""A library that is never installed by an extra of this project, as its licence forbids commercial use."""


@dataclass(frozen=True)
class Weights:
    """A file that a library reads, and whose terms."""

    file: str
    place: Literal["hub", "clip"]
    url: str
    licence: str

    @property
    def path(self) -> Path:
        """Where the library looks for it."""
        if self.place == "clip":
            return Path.home() / ".cache" / "clip" / self.file
        import torch

        return Path(torch.hub.get_dir()) / "checkpoints" / self.file


@dataclass(frozen=True)
class Metric:
    """One row of the table; the head of `metrics.toml` says what its fields are."""

    label: str
    of: Literal["pair", "input", "picture", "set"]
    better: Literal["higher", "lower"]
    digits: int
    licence: str
    setting: str
    library: tuple[str, ...] = ()
    paper: str = ""
    extra: str = "evaluate"
    weights: tuple[Weights, ...] = ()

    @property
    def made_with(self) -> str:
        """Library, version and setting: what values must share to be compared."""
        versions = [f"{name.split('/')[0]} {version_of(name)}" for name in self.library]
        return "; ".join([*(versions or ["this project"]), self.setting])

    @property
    def arrow(self) -> str:
        """The direction of the label."""
        return "↑" if self.better == "higher" else "↓"


@cache
def read_metrics() -> dict[str, Metric]:
    """Return the table, by the names that a command line gives the metrics."""
    table = parse_toml(read_text(Path(__file__).with_name("metrics.toml")))
    return {name: _metric(name, row) for name, row in table.items()}


def _metric(name: str, row: dict[str, Any]) -> Metric:
    weights = tuple(from_table(Weights, table, f"{name}.weights.") for table in row.pop("weights", ()))
    return replace(from_table(Metric, row, f"{name}."), weights=weights)


def choose_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """Return the rows of these names, in their order. Raises OSEDiffError for a name that is none."""
    table = read_metrics()
    unknown = [name for name in names if name not in table]
    if unknown or not names:
        raise OSEDiffError(f"expected metrics among {', '.join(table)}, got {', '.join(unknown) or 'none'}")
    return {name: table[name] for name in dict.fromkeys(names)}


def why_missing(metric: Metric) -> str | None:
    """Say what a metric lacks on this machine and how to get it; None where nothing does."""
    absent = [name for name in metric.library if version_of(name) == ABSENT]
    if NON_COMMERCIAL in absent:
        return (
            "needs pyiqa, whose licence (since April 2026 PolyForm Noncommercial 1.0.0) forbids commercial "
            "use: where that suits you, pip install pyiqa"
        )
    if absent:
        named = " and ".join(name.replace("/", " or ") for name in absent)
        return f"needs {named}: pip install -e .[{metric.extra}]"
    files = [w for w in metric.weights if not w.path.is_file()]
    if files:
        commands = [f'curl -L --create-dirs -o "{w.path}" {w.url} ({w.licence})' for w in files]
        return f"needs weights that are not here: {'; '.join(commands)}"
    return None


def licence_of(metric: Metric) -> str:
    """Name the licence of a metric's library, as the installed package states it where that forbids sale."""
    if NON_COMMERCIAL not in metric.library:
        return metric.licence
    try:
        about = metadata.metadata(NON_COMMERCIAL)
    except metadata.PackageNotFoundError:
        return f"{metric.licence} ({NON_COMMERCIAL} is not installed)"
    told = [about[key] for key in ("License-Expression", "License") if key in about]
    stated = next((text for text in told if text not in ("", "UNKNOWN")), "its licence is in the package")
    return f"{metric.licence} (pyiqa {about['Version']}: {stated})"


def version_of(library: str) -> str:
    """Return the installed version of a library, or ABSENT; a folder that is only called so does not count.

    library: its package's name, or several between slashes, of which one is enough.
    """
    for package in library.split("/"):
        try:
            return metadata.version(package.replace("_", "-"))
        except metadata.PackageNotFoundError:
            continue
    return ABSENT

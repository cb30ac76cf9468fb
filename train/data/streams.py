"""Hugging Face data sets: "hf:NAME?split=train&column=image", read in order as a stream, or as a table.

NAME is what `datasets.load_dataset` takes: a hub id, a local folder, or a builder such as "parquet" with
data_files=PATTERN. `name=` picks a configuration; `streaming=false` downloads the set first, after which any
picture can be had at once.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from osediff_core.errors import OSEDiffError

from .items import Item
from .listing import Entry

PREFIX = "hf:"
DEFAULTS = {"split": "train", "column": "image", "streaming": "true"}
OPTIONS = (*DEFAULTS, "name", "data_files")


def is_data_set(source: str) -> bool:
    """Tell whether a source is a data set."""
    return source.startswith(PREFIX)


def is_stream(source: str) -> bool:
    """Tell whether a source is a data set that can only be read in order."""
    return is_data_set(source) and _options(source)[1]["streaming"] != "false"


@dataclass(frozen=True)
class Row:
    """A picture in a data set: a row of a table, or something that a stream has passed by."""

    source: str
    number: int
    value: Any = None
    table: Any = None
    size: int = -1  # bytes of the data set's own files

    @property
    def name(self) -> str:
        """The data set and the number in it."""
        return f"{self.source}#{self.number}"

    @property
    def key(self) -> str:
        """The number in the data set."""
        return str(self.number)

    @property
    def entry(self) -> Entry:
        """The data set and the number in it, and the bytes of the whole set, where its files lie here."""
        return f"{placeless(self.source)}#{self.number}", self.size

    def read(self) -> bytes:
        """Return the encoded picture. Raises OSError, or OSEDiffError where the column holds none."""
        value = self.value if self.table is None else self.table[self.number][_column(self.source)]
        if isinstance(value, bytes):
            return value
        if isinstance(value, dict) and value.get("bytes") is not None:
            return value["bytes"]
        if isinstance(value, dict) and value.get("path"):
            return Path(value["path"]).read_bytes()
        raise OSEDiffError(f"{self.name} holds no encoded picture in the column {_column(self.source)!r}")


def table_items(source: str) -> list[Item]:
    """List the rows of a data set that is not streamed. Raises OSEDiffError for a stream."""
    if is_stream(source):
        raise OSEDiffError(
            f"{source} is a stream, which can neither stand in a list nor be pooled with other sources: name "
            "it in data.sources, with data.weights, or add streaming=false"
        )
    table, size = open_data_set(source), bytes_here(source)
    return [Row(source, number, table=table, size=size) for number in range(len(table))]


def placeless(source: str) -> str:
    """Name a data set without the folders that it lies in on this machine."""
    name, options = _options(source)
    if "data_files" in options:
        options["data_files"] = Path(options["data_files"]).name
    query = "&".join(f"{key}={value}" for key, value in sorted(options.items()))
    return f"{PREFIX}{'' if Path(name).is_dir() else name}?{query}"


def bytes_here(source: str) -> int:
    """Add up the files of a data set that lie on this machine; -1 where there are none."""
    name, options = _options(source)
    folder = Path(name)
    here = folder.rglob("*") if folder.is_dir() else map(Path, glob.glob(options.get("data_files", "")))
    sizes = [path.stat().st_size for path in here if path.is_file()]
    return sum(sizes) if sizes else -1


class Reader:
    """Pictures of a stream by their number, cheaply as long as the numbers rise; the stream has no end.

    It begins anew after its last picture. To go back, or to a far number after a resume, it is read from the
    start, without decoding.
    """

    def __init__(self, source: str) -> None:
        """Remember what to read; the stream is opened in the process that first needs it."""
        self.source = source
        self.length: int | None = None  # known once the end has been seen
        self._rows: Iterator[Any] | None = None
        self._next = 0

    def read(self, first: int, count: int) -> list[Row]:
        """Give the pictures `first` to `first + count - 1` of the endless stream."""
        return [self._row(number) for number in range(first, first + count)]

    def _row(self, number: int) -> Row:
        while True:
            wanted = number if self.length is None else number % self.length
            if self._rows is None or wanted < self._next:
                # Not iter(): there, the library would give each loading process a share of its own choice.
                self._rows, self._next = open_data_set(self.source).iter(batch_size=1), 0
            for row in self._rows or ():
                self._next += 1
                if self._next > wanted:
                    return Row(self.source, wanted, row[_column(self.source)][0])
            if not self._next:
                raise OSEDiffError(f"The training source {self.source} holds no picture.")
            self.length, self._rows = self._next, None


def open_data_set(source: str) -> Any:  # noqa: ANN401
    """Open the data set with its pictures left encoded. Raises OSEDiffError that says what keeps it shut."""
    try:
        import datasets
    except ImportError as error:
        raise OSEDiffError(f"{source} needs the package datasets: pip install datasets") from error
    name, options = _options(source)
    chosen: dict[str, Any] = {key: options[key] for key in ("name", "data_files") if key in options}
    chosen |= {"split": options["split"], "streaming": options["streaming"] != "false"}
    try:
        rows = datasets.load_dataset(name, **chosen)
        if _column(source) not in (rows.column_names or [_column(source)]):
            raise OSEDiffError(
                f"{source} has no column {_column(source)!r}, only {', '.join(rows.column_names)}"
            )
        features = rows.features or {}
        if isinstance(features.get(_column(source)), datasets.Image):
            rows = rows.cast_column(_column(source), datasets.Image(decode=False))
    except OSEDiffError:
        raise
    except Exception as error:  # the hub, the network and every builder raise errors of their own
        raise OSEDiffError(f"the data set {source} cannot be opened: {error}") from error
    return rows


def _column(source: str) -> str:
    return _options(source)[1]["column"]


def _options(source: str) -> tuple[str, dict[str, str]]:
    """Split "hf:NAME?key=value" into the name and all its options."""
    name, _, query = source.removeprefix(PREFIX).partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(given.keys() - set(OPTIONS))
    if not name or unknown:
        raise OSEDiffError(
            f'a data set is named like "hf:NAME?split=train&column=image", with the options '
            f"{', '.join(OPTIONS)}, got {source}"
        )
    return name, DEFAULTS | given

"""Where the published weights are, what they may be used for, and how a file is known to be the right one.

The table is published.json. No value stands there without a source: `seen` says where a hash or a size was
read, because nobody who wrote it had the large files. A field that nobody could read is left out; `osediff
fetch` then goes by the hash that the hub itself states, and says "not pinned".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType


@dataclass(frozen=True)
class Licence:
    """What a file may be used for: the licence's name, the address of its text, and what to mind."""

    name: str
    address: str
    mind: str = ""


@dataclass(frozen=True)
class KnownFile:
    """One file: its path in the repository, and what is known of its content.

    size: bytes. sha256: of the content. git_blob: the SHA-1 by which git names the content. Each None where
    nobody could read it. seen: where the values were read, for every file that has any.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None
    seen: str | None = None


@dataclass(frozen=True)
class Mirror:
    """A repository on the hub; it need not be trusted for files with a sha256.

    prefix: the folder in it that holds the files. revision: a commit, or None. seen: who points to it, for
    one that is not its author's.
    """

    repo: str
    prefix: str = ""
    revision: str | None = None
    kind: str = "model"
    seen: str = ""


@dataclass(frozen=True)
class PublishedFiles:
    """Something to get, with all its files.

    mirrors: tried in this order; empty where the hub does not have it. page: where a person finds it. about:
    the size as the pages round it. place: the folder under ComfyUI's models. tree: the files keep their
    folders, inside a folder of this name at `place`.
    """

    what: str
    files: tuple[KnownFile, ...]
    licence: Licence
    page: str
    about: str
    place: str
    mirrors: tuple[Mirror, ...] = ()
    tree: str | None = None
    note: str = ""


def _read_table(path: Path) -> dict[str, PublishedFiles]:
    """Return the entries of the table, whose licences and mirrors stand in it once, by names of their own."""
    table = json.loads(path.read_text(encoding="utf-8"))
    licences = {name: Licence(**licence) for name, licence in table["licences"].items()}
    mirrors = {name: Mirror(**mirror) for name, mirror in table["mirrors"].items()}
    published = {}
    for name, entry in table["published"].items():
        named = {
            "files": tuple(KnownFile(**file) for file in entry["files"]),
            "licence": licences[entry["licence"]],
            "mirrors": tuple(mirrors[mirror] for mirror in entry.get("mirrors", ())),
        }
        published[name] = PublishedFiles(**{**entry, **named})
    return published


SOURCES: Mapping[str, PublishedFiles] = MappingProxyType(
    _read_table(Path(__file__).with_name("published.json"))
)
"""What `osediff fetch` knows, by the name that a user types."""

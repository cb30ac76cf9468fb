"""Models that are in the hub's cache on this computer. Nothing here uses the network."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..text_files import read_text
from ..whole_files import name_beside, write_whole, writing

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form of a hub id, owner/model."""
    return HUB_ID.fullmatch(name) is not None


def cache_folder() -> Path:
    """Return where the hub's files are kept, as HF_HOME and HF_HUB_CACHE say."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def snapshot(repo_id: str) -> Path | None:
    """Return the folder of a model's newest revision in the cache, or None."""
    return _main_snapshot(cache_folder() / f"models--{repo_id.replace('/', '--')}")


def snapshots() -> Iterator[Path]:
    """Yield the folder of every model in the cache, in the order of their names."""
    for place in sorted(cache_folder().glob("models--*")):
        folder = _main_snapshot(place)
        if folder is not None:
            yield folder


def repo_id(folder: Path) -> str:
    """Return the hub id of a folder of `snapshots`."""
    return folder.parents[1].name.removeprefix("models--").replace("--", "/")


def link(repo: Path, commit: str, path: str, content: Path, *, newest: bool) -> Path:
    """Give a content of the cache its name in a revision, as huggingface_hub does, and return the path.

    repo: a model's folder in the cache, content: a file in its "blobs". newest: the revision is "main" now.
    Raises OSEDiffError where that cannot be written.
    """
    pointer = repo / "snapshots" / commit / path
    with writing(pointer):
        pointer.parent.mkdir(parents=True, exist_ok=True)
        beside = name_beside(pointer)
        try:
            beside.symlink_to(os.path.relpath(content, pointer.parent))
            os.replace(beside, pointer)
        except (OSError, NotImplementedError):  # Windows, without the right to link, or a share
            os.replace(content, pointer)
        if newest:
            (repo / "refs").mkdir(exist_ok=True)
            write_whole(repo / "refs" / "main", commit.encode())
    return pointer


def _main_snapshot(place: Path) -> Path | None:
    """Return the snapshot that "main" names, or else the newest of those there are."""
    try:
        revision = read_text(place / "refs" / "main").strip()
    except (OSError, ValueError):
        revision = ""
    named = place / "snapshots" / revision if re.fullmatch(r"\w+", revision) else None
    if named is not None and named.is_dir():
        return named
    there = [folder for folder in place.glob("snapshots/*") if folder.is_dir()]
    return max(there, key=lambda folder: folder.stat().st_mtime, default=None)

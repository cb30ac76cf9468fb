"""Finding files in a folder: one walk for the command line and the trainer. Looks at names only."""

from __future__ import annotations

import errno
import os
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

# What systems and network disks put beside pictures under names without a dot, in small letters.
OF_SYSTEMS = frozenset(
    {"@eadir", "#recycle", "@recycle", "__macosx", "$recycle.bin", "recycler", "system volume information"}
    | {"lost+found", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"}
)
HIDDEN, INSIDE, CLOSED = "hidden or system file", "folder inside", "folder that cannot be read"
LOOP, NOWHERE, AGAIN = "link that loops", "link that leads nowhere", "link to a folder that is there already"
SPECIAL = "pipe, socket or device"
PLURALS = MappingProxyType(
    {
        HIDDEN: "hidden or system files",
        INSIDE: "folders inside",
        CLOSED: "folders that cannot be read",
        LOOP: "links that loop",
        NOWHERE: "links that lead nowhere",
        AGAIN: "links to folders that are there already",
        SPECIAL: "pipes, sockets or devices",
    }
)
MOST_KINDS = 8
"""Kinds of what was left out that are named one by one."""


@dataclass(frozen=True)
class Found:
    """files: in the order of their names. left_out: how many of each kind were passed over."""

    files: list[Path]
    left_out: Counter[str] = field(default_factory=Counter[str])


@dataclass(frozen=True)
class _Inside:
    """What lies in one folder, by what is done with it; of folders, the real place as well."""

    files: list[Path]
    folders: list[tuple[Path, str]]
    links: list[tuple[Path, str]]


def find_files(
    folder: Path, endings: Collection[str], *, recursive: bool, apart: Path | None = None
) -> Found:
    """List the files of a folder that end in one of `endings` (".png"), whatever the case, below it if asked.

    Folders are known by their real place: one that is linked is walked once, under its own name if it has one
    here, and `apart` never. Hidden and system files, and what is no file, are left out and counted. Raises
    OSError where the folder itself cannot be listed.
    """
    found = Found([])
    home = os.path.realpath(folder)
    seen = set() if apart is None else {os.path.realpath(apart)} - {home}
    folders, links = [(folder, home)], deque[tuple[Path, str]]()
    while folders or links:
        is_link = not folders
        here, place = links.popleft() if is_link else folders.pop()
        if place in seen:
            found.left_out[AGAIN] += is_link
            continue
        seen.add(place)
        try:
            inside = _look(here, place, endings, found.left_out)
        except OSError:
            if here is folder:
                raise
            found.left_out[CLOSED] += 1
            continue
        found.files.extend(inside.files)
        if recursive:
            folders += inside.folders
            links += inside.links
        else:
            others = [at for _, at in (*inside.folders, *inside.links) if at not in seen]
            found.left_out[INSIDE] += len(others)
    found.files.sort()
    return found


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of this name is nobody's picture: hidden, or put there by a system."""
    return name.casefold() in OF_SYSTEMS or (name.startswith(".") and name not in (".", ".."))


def in_words(left_out: Counter[str]) -> str:
    """Say what was left out: "3 HEIC, 1 link that loops"; "" for nothing."""
    kinds = [(kind, count) for kind, count in left_out.most_common() if count]
    words = [f"{n} {kind if n == 1 else PLURALS.get(kind, kind)}" for kind, n in kinds[:MOST_KINDS]]
    rest = sum(count for _, count in kinds[MOST_KINDS:])
    return ", ".join([*words, *([f"{rest} others"] if rest else [])])


def _look(here: Path, place: str, endings: Collection[str], left_out: Counter[str]) -> _Inside:
    """Sort what lies in one folder, in the order of its names; `place` is where it really is."""
    inside = _Inside([], [], [])
    with os.scandir(here) as listed:
        entries = sorted(listed, key=lambda entry: entry.name)
    for entry in entries:
        path = here / entry.name
        kind = HIDDEN if is_hidden(entry.name) else _kind(entry)
        if kind == "folder":
            real = os.path.realpath(path)
            if real == os.path.join(place, entry.name):
                inside.folders.append((path, real))
            elif _holds(real, place):
                left_out[LOOP] += 1
            else:
                inside.links.append((path, real))
        elif kind == "file" and path.suffix.lower() in endings:
            inside.files.append(path)
        else:
            left_out[kind if kind != "file" else _ending(path)] += 1
    return inside


def _kind(entry: os.DirEntry[str]) -> str:
    """Return what an entry is, or what a link leads to: "folder", "file", or why it is left out."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError as error:
        return NOWHERE if error.errno != errno.ELOOP else LOOP
    return NOWHERE if entry.is_symlink() and not os.path.exists(entry.path) else SPECIAL


def _holds(folder: str, place: str) -> bool:
    """Whether `place` is `folder` or below it."""
    return place == folder or place.startswith(os.path.join(folder, ""))


def _ending(path: Path) -> str:
    return path.suffix[1:].upper() or "without an ending"

"""Which pictures there are: folders, patterns, list files, tar shards and data sets, expanded; and pairs."""

from __future__ import annotations

import glob
import logging
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from osediff_core import limits
from osediff_core.errors import OSEDiffError
from osediff_core.pictures.files import PICTURES
from osediff_core.pictures.find import HIDDEN, find_files, in_words, is_hidden
from osediff_core.text_files import read_text

from .items import FileItem, Item
from .streams import is_data_set, table_items

log = logging.getLogger(__name__)

ENDINGS = (*PICTURES, ".tar")
MOST_LISTS, MOST_WITHIN = 10_000, 50
"""List files that one look for pictures reads, each counted as often as it is named; and in one another."""
PAIR_ENDINGS = re.compile(r"([_.-](hr|lr|hq|lq|gt|x)\d*)+$", re.IGNORECASE)
"""What the two halves of a pair may be called besides their common name: a_HR and a_LR4, a and a_x4."""


def find_pictures(sources: Iterable[str | Path]) -> list[Item]:
    """Expand folders, patterns, list files and shards to pictures, in a fixed order; repetitions are kept.

    Lines of a list file are relative to its folder; empty ones and those beginning with # are passed over.
    What folders, patterns and shards hold besides is said. Raises OSEDiffError for a source that does not
    exist or holds no picture, for lists that lead to themselves, and when there is no source.
    """
    search = _Search()
    found = [item for source in sources for item in search.expand(str(source), ())]
    if not found:
        raise OSEDiffError("There are no training pictures: name folders or list files in data.sources.")
    if search.left_out.total():
        log.warning("Left out of the training pictures: %s", in_words(search.left_out))
    return found


def pair_up(hq: list[Item], lq: list[Item], source: str) -> list[Item]:
    """Give the LQ item for each HQ one, by key. Raises OSEDiffError where one is missing or doubtful."""
    found: dict[str, Item] = {}
    for item in lq:
        other = found.setdefault(_pair_key(item), item)
        if other.name != item.name:
            raise OSEDiffError(f"{other.name} and {item.name} have one name as halves of pairs: rename one")
    missing = [item.name for item in hq if _pair_key(item) not in found]
    if missing:
        raise OSEDiffError(
            f"{len(missing)} of {len(hq)} HQ pictures have no LQ of the same name in {source}, "
            f"first {missing[0]}"
        )
    return [found[_pair_key(item)] for item in hq]


def _pair_key(item: Item) -> str:
    return PAIR_ENDINGS.sub("", item.key)


class _Search:
    """One look for pictures: what it left out, and how many list files it has read."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self.lists = 0

    def expand(self, source: str, before: tuple[str, ...]) -> list[Item]:
        """List the pictures of a source; `before` are the list files that led here."""
        if is_data_set(source):
            return table_items(source)
        path = Path(source)
        if path.is_dir():
            found = self._folder(path)
        elif path.suffix.lower() == ".txt" and path.is_file():
            found = self._list(path, before)
        elif path.suffix.lower() == ".tar" and path.is_file():
            found = self._shard(path)
        elif path.is_file():
            return [FileItem(path, path.stem)]
        else:
            found = self._pattern(path)
        if not found:
            known = ", ".join(ENDINGS)
            raise OSEDiffError(
                f"The training source {source} does not exist or holds no picture ({known}): name a folder "
                "of photographs by --data.sources; `python -m train.pictures pictures` makes one of free ones"
            )
        return found

    def _list(self, path: Path, before: tuple[str, ...]) -> list[Item]:
        place = os.path.realpath(path)
        if place in before:
            raise OSEDiffError(f"the list {path} leads to itself: take the line out that names it")
        self.lists += 1
        if self.lists > MOST_LISTS or len(before) >= MOST_WITHIN:
            raise OSEDiffError(
                f"at most {MOST_LISTS} lists of training pictures are read, and {MOST_WITHIN} within one "
                f"another; {path} is one more: put some of them together"
            )
        within = (*before, place)
        return [item for line in _lines(path) for item in self.expand(str(path.parent / line), within)]

    def _folder(self, folder: Path) -> list[Item]:
        return [item for path in self._below(folder) for item in self._file(path, path.relative_to(folder))]

    def _below(self, folder: Path) -> list[Path]:
        try:
            found = find_files(folder, ENDINGS, recursive=True)
        except OSError as error:
            raise OSEDiffError(f"{folder} cannot be listed: {error.strerror or error}") from error
        self.left_out += found.left_out
        return found.files

    def _file(self, path: Path, name: Path) -> list[Item]:
        """Return the picture, or those of a shard; `name` is what is left of the path within the source."""
        if path.suffix.lower() == ".tar":
            return self._shard(path)
        return [FileItem(path, name.with_suffix("").as_posix())]

    def _shard(self, path: Path) -> list[Item]:
        found, hidden = index_tar(path)
        self.left_out += Counter({HIDDEN: hidden})
        return found

    def _pattern(self, pattern: Path) -> list[Item]:
        """Return the pictures whose paths fit.

        What exists as it is written is no pattern, whatever its letters.
        """
        parts = pattern.parts
        known = next(n for n in range(len(parts), -1, -1) if Path(*parts[:n]).is_dir())
        start, rest = Path(*parts[:known]), parts[known:]
        deep = rest.index("**") if "**" in rest else len(rest)
        paths: list[Path] = []
        for place in _globbed(start, rest[:deep]):
            if deep == len(rest):
                paths.append(place)
            elif place.is_dir():
                below = self._below(place)
                paths += [path for path in below if _fits(path.relative_to(place).parts, rest[deep:])]
        pictures = [path for path in paths if path.suffix.lower() in ENDINGS and path.is_file()]
        return [item for path in sorted(pictures) for item in self._file(path, Path(path.name))]


def _globbed(start: Path, pattern: tuple[str, ...]) -> list[Path]:
    """Return what fits a pattern without "**" below a folder.

    Hidden files only where their very name is in it.
    """
    if not pattern:
        return [start]
    found = [Path(name) for name in glob.glob(os.path.join(glob.escape(str(start)), *pattern))]
    return [
        path
        for path in found
        if not any(is_hidden(part) and part not in pattern for part in path.relative_to(start).parts)
    ]


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path fits a pattern in which "**" stands for any folders, or none."""
    if not pattern or not parts:
        return all(part == "**" for part in pattern) and not parts
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or _fits(parts[1:], pattern)
    return fnmatchcase(os.path.normcase(parts[0]), os.path.normcase(pattern[0])) and _fits(
        parts[1:], pattern[1:]
    )


def index_tar(path: Path) -> tuple[list[Item], int]:
    """List the pictures of an uncompressed tar from its headers, in their order; nothing is unpacked.

    Returns how many were passed over as hidden, too.

    Of a shard that ends too early, what lies before is listed, with a warning. Raises OSEDiffError for a file
    that is no uncompressed tar.
    """
    found: list[Item] = []
    hidden = 0
    try:
        with tarfile.open(path, "r:") as shard:
            try:
                while (member := shard.next()) is not None:
                    name = PurePosixPath(member.name)
                    if member.isreg() and name.suffix.lower() in PICTURES:
                        if any(map(is_hidden, name.parts)):
                            hidden += 1
                        else:
                            found.append(_member(path, member))
            except (tarfile.ReadError, EOFError, OSError) as error:
                log.warning("%s is cut off (%s); its first %d pictures are used", path, error, len(found))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise OSEDiffError(
            f"{path} is no uncompressed tar shard ({error}): unpack and pack it again"
        ) from error
    return found, hidden


def _member(path: Path, member: tarfile.TarInfo) -> Item:
    key = PurePosixPath(member.name).with_suffix("").as_posix()
    return FileItem(path, key, member.name, member.offset_data, member.size)


def _lines(source: Path) -> list[str]:
    try:
        lines = read_text(source, limits.LIST_BYTES).split("\n")
    except (OSError, ValueError) as error:
        raise OSEDiffError(f"The list of training pictures {source} cannot be read: {error}.") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]

"""Where pictures come from: files, parts of tar shards, rows of a data set. Each can be read on its own."""

from __future__ import annotations

import glob
import logging
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import Picture, decode_image
from osediff_core.transparency import visible

log = logging.getLogger(__name__)

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
PAIR_ENDINGS = re.compile(r"([_.-](hr|lr|hq|lq|gt|x)\d*)+$", re.IGNORECASE)
"""What the two halves of a pair may be called besides their common name: a_HR and a_LR4, a and a_x4."""


class Item(Protocol):
    """One picture that can be read when it is needed."""

    @property
    def name(self) -> str:
        """What messages and prompt files call it; no two pictures share it."""
        ...

    @property
    def key(self) -> str:
        """Its name within its source, without the ending: what pairs HQ with LQ."""
        ...

    def read(self) -> bytes:
        """Return the encoded picture. Raises OSError."""
        ...


@dataclass(frozen=True)
class FileItem:
    """A picture file, or the part of an uncompressed tar that holds one (`size` bytes from `offset`)."""

    path: Path
    key: str
    member: str = ""
    offset: int = 0
    size: int = -1

    @property
    def name(self) -> str:
        """The path; for a part of a tar, the path of the tar and the name inside."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    def read(self) -> bytes:
        """Return the encoded picture. Raises OSError."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def load(item: Item) -> Picture:
    """Read and decode a picture. Raises OSEDiffError that names it, whatever is wrong with it."""
    try:
        content = item.read()
    except OSError as error:
        raise OSEDiffError(f"{item.name} cannot be opened: {error.strerror or error}") from error
    picture = decode_image(content, item.name)
    if picture.alpha is not None and not visible(picture.alpha).any():
        raise OSEDiffError(f"{item.name} shows nothing, for all of it is transparent: take it away")
    return picture


def find_pictures(sources: Iterable[str | Path]) -> list[Item]:
    """Expand folders, patterns, list files and shards to pictures, in a fixed order; repetitions are kept.

    Lines of a list file are relative to its folder; empty ones and those beginning with # are passed over.
    Raises OSEDiffError for a source that does not exist or holds no picture, and when there is no source.
    """
    found = [item for source in sources for item in _expand(str(source))]
    if not found:
        raise OSEDiffError("There are no training pictures: name folders or list files in data.sources.")
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


def _expand(source: str) -> list[Item]:
    from .streams import is_data_set, table_items

    if is_data_set(source):
        return table_items(source)
    path = Path(source)
    if path.is_dir():
        found = list(_folder(path))
    elif path.suffix.lower() == ".txt" and path.is_file():
        found = [item for line in _lines(path) for item in _expand(str(path.parent / line))]
    elif path.suffix.lower() == ".tar" and path.is_file():
        found = index_tar(path)
    elif path.is_file():
        return [FileItem(path, path.stem)]
    else:
        found = _pattern(source)
    if not found:
        known = ", ".join((*PICTURE_SUFFIXES, ".tar"))
        raise OSEDiffError(f"The training source {source} does not exist or holds no picture ({known}).")
    return found


def _folder(folder: Path) -> Iterator[Item]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICTURE_SUFFIXES:
            yield FileItem(path, path.relative_to(folder).with_suffix("").as_posix())
        elif path.suffix.lower() == ".tar":
            yield from index_tar(path)


def _pattern(source: str) -> list[Item]:
    paths = [Path(name) for name in sorted(glob.glob(source, recursive=True))]
    found: list[Item] = []
    for path in paths:
        if path.suffix.lower() == ".tar":
            found += index_tar(path)
        elif path.suffix.lower() in PICTURE_SUFFIXES:
            found.append(FileItem(path, path.stem))
    return found


def index_tar(path: Path) -> list[Item]:
    """List the pictures of an uncompressed tar from its headers, in their order; nothing is unpacked.

    Of a shard that ends too early, what lies before is listed, with a warning. Raises OSEDiffError for a file
    that is no uncompressed tar.
    """
    found: list[Item] = []
    try:
        with tarfile.open(path, "r:") as shard:
            try:
                while (member := shard.next()) is not None:
                    if _is_picture(member):
                        found.append(_member(path, member))
            except (tarfile.ReadError, EOFError, OSError) as error:
                log.warning("%s is cut off (%s); its first %d pictures are used", path, error, len(found))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise OSEDiffError(
            f"{path} is no uncompressed tar shard ({error}): unpack and pack it again"
        ) from error
    return found


def _is_picture(member: tarfile.TarInfo) -> bool:
    name = PurePosixPath(member.name)
    return member.isreg() and name.suffix.lower() in PICTURE_SUFFIXES and not name.name.startswith("._")


def _member(path: Path, member: tarfile.TarInfo) -> Item:
    key = PurePosixPath(member.name).with_suffix("").as_posix()
    return FileItem(path, key, member.name, member.offset_data, member.size)


def _lines(source: Path) -> list[str]:
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OSEDiffError(f"The list of training pictures {source} cannot be read: {error}.") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]

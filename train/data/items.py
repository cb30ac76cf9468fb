"""One picture of a source, which can be read when it is needed: a file, a part of a tar."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.blocks import Notes
from osediff_core.pictures.images import Picture, decode_image
from osediff_core.transparency import visible

from .listing import Entry


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

    @property
    def entry(self) -> Entry:
        """What tells it from other pictures wherever its source lies: its name there, and its size."""
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

    @property
    def entry(self) -> Entry:
        """The key with its ending, and the bytes of the file, or of the part."""
        name = self.key + PurePosixPath(self.member or self.path.name).suffix
        try:
            return name, self.size if self.member else self.path.stat().st_size
        except OSError:  # it will be passed over with a warning
            return name, -1

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
    # The caches count pixels: what else a file said would be kept uncounted.
    return replace(picture, exif=None, notes=Notes())

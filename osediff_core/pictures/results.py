"""Results that an earlier run left: whether they are whole, how large they are, what they were made of."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from .blocks import PROCESSING_SOFTWARE

SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"BM", b"II*\0", b"MM\0*")
JPEG_END = 1 << 16  # bytes, among which a JPEG that is whole ends


def is_cut(path: Path) -> bool:
    """Tell whether a picture file is empty or ends too early, as a full disk leaves it; decodes nothing.

    A file that is no picture is not cut, for who knows what it is. Raises OSError.
    """
    with path.open("rb") as file:
        head = file.read(16)
        if not any(head):  # empty, or a room that was never filled
            return True
        if not any(head.startswith(mark) or mark.startswith(head) for mark in SIGNATURES):
            return False
        if len(head) < 16:
            return True
        if head.startswith(b"\x89PNG"):
            return not _png_ends(file)
        if head.startswith(b"\xff\xd8"):
            file.seek(max(0, file.seek(0, 2) - JPEG_END))
            content = file.read()
            return content.rfind(b"\xff\xd9") <= content.rfind(b"\xff\xda")  # no end after the last scan
        if head.startswith((b"II", b"MM")):
            return not _tiff_ends(path)
        size = file.seek(0, 2)
    if head.startswith(b"RIFF"):
        return size < struct.unpack("<I", head[4:8])[0] + 8
    return size < struct.unpack("<I", head[2:6])[0]


def _png_ends(file: BinaryIO) -> bool:
    """Whether the chunks of a PNG are all there, up to the last."""
    size = file.seek(0, 2)
    at = 8
    while at + 12 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IEND":
            return True
        if not kind.isalpha():
            return False
        at += length + 12
    return False


def _tiff_ends(path: Path) -> bool:
    """Whether a TIFF reaches as far as its first page says that its pixels do."""
    from PIL import Image

    offsets, counts = 273, 279  # of strips
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
            ends = [a + n for a, n in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=True)]
    except Exception:  # damaged files make Pillow raise anything
        return False
    return path.stat().st_size >= max(ends, default=0)


def sides(path: Path) -> tuple[int, int] | None:
    """Return the shorter and the longer side of a picture, the same if turned; None if unreadable."""
    from .formats import size_of

    try:
        with path.open("rb") as file:
            shorter, longer = sorted(size_of(file, str(path)))
    except Exception:  # damaged files make Pillow raise anything
        return None
    return shorter, longer


def made(path: Path) -> str | None:
    """Return what `Notes.made` said when a result was written; None where nothing can be read."""
    from PIL import Image

    from .exif import exif_of

    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP", "TIFF")) as image:
            block = image.info.get("exif")  # getexif() decodes a PNG to see what follows its pixels
            tags = image.tag_v2 if image.format == "TIFF" else exif_of(block or b"")  # type: ignore[attr-defined]
            text = tags.get(PROCESSING_SOFTWARE)
    except Exception:  # damaged files make Pillow raise anything
        return None
    return text if isinstance(text, str) else None


def result_stems(original: Path) -> tuple[str, str]:
    """Return what a result of a picture is called without its ending: "a", or "a_jpg" beside another "a"."""
    return original.stem, f"{original.stem}_{original.suffix[1:]}"


def earlier_results(found: Iterable[Path], source: Path) -> set[Path]:
    """Tell which of the pictures below `source` are results of others, of a run into a folder inside.

    A result has the name of its original in a folder deeper down, is as much larger on both sides, and is not
    older. Without this, a second run restored the results of the first: 16 times as large.
    """
    originals: dict[tuple[tuple[str, ...], str], list[Path]] = {}
    found = list(found)
    for path in found:
        folders = path.relative_to(source).parent.parts
        for stem in dict.fromkeys(result_stems(path)):
            originals.setdefault((folders, stem), []).append(path)
    return {path for path in found if any(_made_of(path, o) for o in _above(path, source, originals))}


def _above(
    path: Path, source: Path, originals: Mapping[tuple[tuple[str, ...], str], list[Path]]
) -> Iterable[Path]:
    """Pictures of the same name in a folder that a run into a folder inside may have started from."""
    folders = path.relative_to(source).parent.parts
    for first in range(len(folders)):
        for end in range(first + 1, len(folders) + 1):
            yield from originals.get((folders[:first] + folders[end:], path.stem), ())


def _made_of(path: Path, original: Path) -> bool:
    """Whether a picture is one of another enlarged by some factor above 1, made after it."""
    large, small = sides(path), sides(original)
    if large is None or small is None or large == small:
        return False
    least = max((side - 0.5) / of for side, of in zip(large, small, strict=True))
    most = min((side + 0.5) / of for side, of in zip(large, small, strict=True))
    return 1 <= most > least and path.stat().st_mtime >= original.stat().st_mtime

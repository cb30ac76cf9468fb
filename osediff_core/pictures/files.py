"""What can be known before a picture is written: formats, their limits, and whether the folder takes it."""

from __future__ import annotations

from pathlib import Path

from ..errors import OSEDiffError
from ..whole_files import name_beside, reason

# What a search through folders takes for pictures. A file that is named may be
# anything that can be read; some need a plugin, and are named with what to install where it is missing.
PICTURES = (".png", ".apng", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".tif", ".tiff", ".bmp", ".gif")
PICTURES += (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif", ".heic", ".heif")
# What Pillow calls the format that a name's ending asks for.
WRITABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
# Longest side that the format (WebP) or the library behind it (libjpeg) can hold, in pixels.
LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}


def format_of(path: Path) -> str:
    """Return what Pillow calls the format that a name asks for; OSEDiffError where it cannot be written."""
    kind = WRITABLE.get(path.suffix.lower())
    if kind is None:
        known = ", ".join(WRITABLE)
        raise OSEDiffError(f"{path} names no format that can be written; let it end in one of {known}")
    return kind


def check_target(path: str | Path, size: tuple[int, int] | None = None) -> None:
    """Raise OSEDiffError where a picture of `size` (height, width) could not be written to `path`.

    Looks at the name, at the format's limits, and at the folder by making and removing a small file, so that
    nobody waits for a picture that cannot be saved.
    """
    path = Path(path)
    format_of(path)
    if size is not None:
        check_size(path, size)
    check_place(path, "a picture")


def check_size(path: Path, size: tuple[int, int]) -> None:
    """Raise OSEDiffError where the format of a name holds no picture of `size` (height, width)."""
    kind = format_of(path)
    longest = LONGEST_SIDE.get(kind)
    if longest is not None and max(size) > longest:
        raise OSEDiffError(
            f"{kind} holds at most {longest} pixels a side, and {path.name} would have {size[1]}x{size[0]}; "
            "write PNG or TIFF, or take a smaller scale"
        )


def check_place(path: Path, what: str) -> None:
    """Raise OSEDiffError where no file could be written to `path`, found out by a small one beside it."""
    beside = name_beside(path)
    try:
        if path.is_dir():
            raise OSEDiffError(f"{path} is a folder, and {what} was to be written there; name a file")
        if path.exists() and not path.is_file():
            raise OSEDiffError(f"{path} is a pipe, socket or device; name a file for {what}")
        if not path.parent.is_dir():
            raise OSEDiffError(f"there is no folder {path.parent}; make it first")
        beside.touch(exist_ok=False)
        beside.unlink()
    except OSError as error:
        raise OSEDiffError(f"cannot write into the folder {path.parent}: {reason(error)}") from error

"""Which format a file is in, by its first bytes, and who reads it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import OSEDiffError
from .blocks import APPENDED, COMMENT, Notes
from .encodings import Encoding, from_code_points
from .exif import exif_of
from .filling import is_filled_up, warn_of_filling
from .jpeg import read_jpeg
from .opened import WITH_ALPHA, Opened, check_size
from .png import SIGNATURE, read_png
from .tiff import read_tiff

# How files begin. A short list, because some of Pillow's other readers start foreign programs.
BEGINNINGS = (
    (SIGNATURE, "PNG"),
    (b"\xff\xd8", "JPEG"),
    (b"BM", "BMP"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)
AVIF_BRANDS, HEIF_BRANDS = (
    (b"avif", b"avis"),
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
)
# Boxes of colours near the beginning of a file: code points (AVIF, HEIC), JPEG 2000's profile or number.
NCLX, COLR, HEAD = b"colrnclx", b"colr", 1 << 20
PROFILES_IN_COLR = (2, 3)
COLOURS_OF_JPEG2000 = (12, 16, 17, 18)  # CMYK, sRGB, grey, sYCC: those that Pillow converts
FILLED_UNSEEN = ("WEBP", "AVIF", "HEIF")  # formats whose decoders take zeros for pixels
READERS = {"PNG": read_png, "JPEG": read_jpeg, "TIFF": read_tiff}


def open_picture(file: BinaryIO, path: str, name: str) -> Opened:
    """Decode the first frame of a picture file. path, name: what errors and warnings call it.

    Raises OSEDiffError for no picture, for formats that need a plugin, and as the readers of each format do.
    """
    kind = _format_of(file, path)
    reader = READERS.get(kind)
    return reader(file, path, name) if reader else _by_pillow(file, kind, path, name)


def size_of(file: BinaryIO, path: str) -> tuple[int, int]:
    """Return (width, height) as the file states them, which may be turned; raises anything."""
    kind = _format_of(file, path)
    _need(kind, path)
    file.seek(0)
    if kind == "PNG":  # Pillow reads all that lies before the pixels first, and may fail there
        width, height = struct.unpack(">II", file.read(24)[16:])
        return width, height
    with Image.open(file, formats=(kind,)) as image:
        return image.size


def _format_of(file: BinaryIO, path: str) -> str:
    """Return what Pillow calls the format of a file. Raises OSEDiffError for none that can be read."""
    file.seek(0)
    kind = _format(file.read(64))
    if kind is None:
        raise OSEDiffError(
            f"{path} is not a picture that can be read: it must be PNG, JPEG, WebP, TIFF, BMP, GIF, "
            "JPEG 2000, AVIF or HEIC; convert it first"
        )
    return kind


def _format(head: bytes) -> str | None:
    """Return what Pillow calls the format of a file that begins like this, or None."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        brands = {
            head[i : i + 4] for i in (8, *range(16, min(int.from_bytes(head[:4], "big"), len(head)), 4))
        }
        return "AVIF" if brands & {*AVIF_BRANDS} else "HEIF" if brands & {*HEIF_BRANDS} else None
    return next((kind for beginning, kind in BEGINNINGS if head.startswith(beginning)), None)


def _by_pillow(file: BinaryIO, kind: str, path: str, name: str) -> Opened:
    """Read a format whose pixels Pillow or its plugin decodes rightly."""
    _need(kind, path)
    try:
        with Image.open(file, formats=(kind,)) as image:
            alpha = kind == "GIF" or image.mode in ("RGBA", "LA", "PA")
            check_size(image.size, file, path, WITH_ALPHA if alpha else 4)
            more = bool(getattr(image, "is_animated", False))
            profile, encoding = _colours(file, kind, image.info, path)
            image.load()
    except UnidentifiedImageError as error:
        raise OSEDiffError(
            f"{path} is a damaged {kind} file, or of a kind that is not known; copy it again"
        ) from error
    if kind == "BMP" and image.mode != "1":
        warn_of_filling(np.asarray(image)[::-1], name)  # its rows are stored from the bottom to the top
    file.seek(0)
    if kind in FILLED_UNSEEN and is_filled_up(file.read(), kind, image):
        raise OSEDiffError(f"{path} is cut off: it ends in zeros that are no pixels; copy it again")
    info = image.info
    exif, xmp = info.get("exif"), info.get("xmp")
    comment = info.get("comment", b"").decode("utf-8", "replace") if kind == "GIF" else ""
    return Opened(
        image,
        profile=profile,
        encoding=encoding,
        exif=partial(exif_of, exif) if exif else None,
        xmp=xmp.encode("utf-8") if isinstance(xmp, str) else xmp,
        turned=kind == "HEIF",
        more=more,
        notes=Notes(
            dpi=info.get("dpi"),
            text=((COMMENT, comment),) if comment.strip("\0 ") else (),
            lost=frozenset({APPENDED} if info.get("aux") or info.get("depth_images") else ()),
        ),
    )


def _colours(
    file: BinaryIO, kind: str, info: Mapping[Any, Any], path: str
) -> tuple[bytes | None, Encoding | None]:
    """Return the profile or the encoding of the pixels; neither is sRGB."""
    if info.get("icc_profile"):
        return info["icc_profile"], None
    file.seek(0)
    head = file.read(HEAD) if kind in ("AVIF", "HEIF", "JPEG2000") else b""
    if kind == "JPEG2000" and (at := head.find(COLR)) >= 4:
        method, number = head[at + 4], int.from_bytes(head[at + 7 : at + 11], "big")
        if method in PROFILES_IN_COLR:
            return head[at + 7 : at - 4 + int.from_bytes(head[at - 4 : at], "big")], None
        if number not in COLOURS_OF_JPEG2000:
            raise OSEDiffError(
                f"{path} is JPEG 2000 in colour space {number}, which cannot be read; save it as sRGB"
            )
    elif (at := head.find(NCLX)) >= 0:
        primaries, transfer = struct.unpack(">HH", head[at + 8 : at + 12])
        try:
            return None, from_code_points(primaries, transfer, full_range=True)  # the decoder has widened it
        except OSEDiffError as error:
            raise OSEDiffError(f"{path} {error}") from error
    return None, None


def _need(kind: str, path: str) -> None:
    """Load what reads a format that not every Pillow reads. Raises OSEDiffError that says what to install."""
    if kind == "HEIF":
        if find_spec("pillow_heif") is None:
            raise OSEDiffError(f"{path} is a HEIC picture, which needs a plugin: pip install pillow-heif")
        import_module("pillow_heif").register_heif_opener()
    elif kind == "AVIF" and find_spec("PIL._avif") is None:
        if find_spec("pillow_avif") is None:
            raise OSEDiffError(
                f"{path} is an AVIF picture, which needs Pillow 11.3 or newer: pip install -U pillow"
            )
        import_module("pillow_avif")

"""What of a photograph's EXIF block is still true after restoration, and the turn that it asks for.

Kept: who, when, where, with what camera and settings. Not kept: the thumbnail (it shows the old picture),
the maker's note (its inner addresses break when the block is written anew, and it may hold a preview), and
tags about how the old file was stored.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from .. import limits
from .blocks import LONGEST_SEGMENT
from .files import format_of

log = logging.getLogger(__name__)

# Numbers from the EXIF standard (CIPA DC-008).
ORIENTATION = 0x0112
CAMERA_BLOCK, PLACE_BLOCK = 0x8769, 0x8825
INTEROPERABILITY = 0xA005
X_RESOLUTION, Y_RESOLUTION, UNIT = 0x011A, 0x011B, 0x0128
INCHES = {2: 1.0, 3: 2.54}  # units of resolution: the inch, the centimetre
COLOUR_SPACE, WIDTH, HEIGHT = 0xA001, 0xA002, 0xA003
# Description, make, model, resolution (3), software, date, artist, host, ratings, copyright; Windows' own.
GENERAL = (
    *(0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298),
    *(0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F),
)
# Maker's note and the pointer to the block that names the colour space of the old pixels.
STALE_IN_CAMERA_BLOCK = (0x927C, INTEROPERABILITY)
SRGB = 1
# What undoes each orientation. Pillow's own exif_transpose fails where another part of the block is damaged.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Photo:
    """What an EXIF block says that is used. kept: what stays true of it, as bytes for `resized_exif`.

    orientation: 1 to 8, 1 is upright. dpi: dots per inch across and down. adobe: the pixels are Adobe RGB.
    """

    kept: bytes | None = None
    orientation: object = None
    dpi: tuple[float, float] | None = None
    adobe: bool = False


class Bounded:
    """A file that gives Pillow's reader of EXIF no more than `limits.EXIF_BYTES`, each byte as often as read.

    Values may lie anywhere and overlap, so that those of a small block can be long.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell = file.seek, file.tell
        self._file, self._room = file, limits.EXIF_BYTES

    def read(self, size: int) -> bytes:
        """Read `size` bytes, or to the end of the file. Raises ValueError where that is too much."""
        content = self._file.read(min(size, self._room + 1))
        self._room -= len(content)
        if self._room < 0:
            raise ValueError(f"it is longer than {limits.EXIF_BYTES >> 20} MiB")
        return content


def exif_of(block: bytes) -> Image.Exif:
    """Parse a block, with or without JPEG's name in front. Raises anything for damaged and too long ones."""
    exif = Image.Exif()
    if content := re.sub(rb"^(Exif\0\0){1,2}", b"", block):
        exif.load_from_fp(Bounded(io.BytesIO(content)))  # type: ignore[arg-type]
    return exif


def read_exif(load: Callable[[], Image.Exif] | None, name: str) -> Photo:
    """Read what `load` gives; of a damaged block what can be had is used, and that is said."""
    if load is None:
        return Photo()
    orientation = dpi = kept = None
    adobe = False
    with warnings.catch_warnings(record=True) as passed_over:  # what Pillow leaves out, value by value
        warnings.simplefilter("always")
        try:
            old = load()
            orientation = old.get(ORIENTATION)
            dpi = _resolution(old)
            # Pillow looks for this block inside the camera's, and may fail where it is not there.
            inside = INTEROPERABILITY in old.get_ifd(CAMERA_BLOCK)
            rule = old.get_ifd(INTEROPERABILITY).get(1) if inside else None
            adobe = str(rule).startswith("R03")
            kept = _kept(old)
        except Exception as error:  # damaged blocks make Pillow raise anything; the picture itself is fine
            log.warning("%s: its EXIF block is damaged (%s) and was left out", name, error)
            return Photo(None, orientation, dpi, adobe)
    if passed_over:
        why = str(passed_over[0].message).strip()
        log.warning("%s: its EXIF block is damaged (%s); what can be read is kept", name, why)
    return Photo(kept, orientation, dpi, adobe)


def _resolution(exif: Image.Exif) -> tuple[float, float] | None:
    across, down, inches = exif.get(X_RESOLUTION), exif.get(Y_RESOLUTION), INCHES.get(exif.get(UNIT, 2))
    if across is None or down is None or inches is None:
        return None
    try:
        return float(across) * inches, float(down) * inches
    except (TypeError, ValueError, ZeroDivisionError):  # no numbers
        return None


def _kept(old: Image.Exif) -> bytes | None:
    new = Image.Exif()
    for tag in GENERAL:
        if tag in old:
            new[tag] = old[tag]
    camera, place = old.get_ifd(CAMERA_BLOCK), dict(old.get_ifd(PLACE_BLOCK))
    camera = {tag: value for tag, value in camera.items() if tag not in STALE_IN_CAMERA_BLOCK}
    if camera:
        new[CAMERA_BLOCK] = camera
    if place:
        new[PLACE_BLOCK] = place
    return new.tobytes() if len(new) else None


def upright(image: Image.Image, orientation: object, name: str) -> Image.Image:
    """Turn and mirror the pixels as the orientation says; None is upright."""
    if orientation is None:
        return image
    if not isinstance(orientation, int) or orientation not in range(1, 9):
        log.warning("%s: its EXIF orientation is %r, not 1 to 8; taken as upright", name, orientation)
        return image
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def with_tags(block: bytes | None, tags: Mapping[int, object]) -> bytes | None:
    """Return the block with further tags in it; None where there is neither."""
    if not tags:
        return block
    exif = exif_of(block or b"")
    for tag, value in tags.items():
        exif[tag] = value
    return exif.tobytes()


def resized_exif(block: bytes | None, size: tuple[int, int], name: str) -> bytes | None:
    """Return the block with the size (width, height) and colour space of the restored picture in it."""
    if block is None:
        return None
    exif = exif_of(block)
    place = dict(exif.get_ifd(PLACE_BLOCK))
    camera = dict(exif.get_ifd(CAMERA_BLOCK))
    camera |= {COLOUR_SPACE: SRGB, WIDTH: size[0], HEIGHT: size[1]}
    exif[CAMERA_BLOCK] = camera
    if place:
        exif[PLACE_BLOCK] = place
    content = exif.tobytes()
    if len(content) > LONGEST_SEGMENT and format_of(Path(name)) == "JPEG":
        log.warning("%s: its EXIF block is too long (%d bytes) and was left out", name, len(content))
        return None
    return content

"""What the reader of each format hands on: pixels as decoded, and what the file says about them."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import numpy as np
from PIL import Image

from .. import limits
from ..errors import OSEDiffError
from .blocks import APPENDED, Notes, true_xmp
from .encodings import Encoding
from .exif import Photo

log = logging.getLogger(__name__)

WITH_ALPHA = 8  # bytes that a pixel with transparency takes while it is read, for what it hides is filled in
# Dots per inch that can be meant: what is beyond was never measured.
LOWEST_DPI, HIGHEST_DPI = 1.5, 100_000
Full = Callable[[], np.ndarray]
"""Gives colours of more than 8 bits, float32 (H, W, 1 or 3) in [0, 1]."""
GAIN_MAP = re.compile(rb"hdr-gain-map|HDRGainMap|MotionPhoto")


@dataclass(frozen=True)
class Opened:
    """A decoded picture, before its colours are converted and it is turned upright.

    profile: ICC; encoding: where the file says it in figures; with neither it is sRGB. exif: what reads
    it, for it may be damaged. turned: the decoder has turned the pixels already. more: there are
    further frames or pages. full: of pictures of more than 8 bits, gives the colours of `image` as float32 in
    [0, 1], (H, W, 1 or 3), converted where `encoding` is None.
    """

    image: Image.Image
    profile: bytes | None = None
    encoding: Encoding | None = None
    exif: Callable[[], Image.Exif] | None = None
    xmp: bytes | None = None
    turned: bool = False
    more: bool = False
    full: Full | None = None
    notes: Notes = field(default_factory=Notes)


def check_size(size: tuple[int, int], file: BinaryIO, path: str, each: int = 4) -> None:
    """Raise OSEDiffError for a (width, height) that takes more memory than the file warrants.

    each: bytes that a pixel takes while it is read; less than 4 count as 4, which Pillow's take.
    """
    pixels = size[0] * size[1]
    if pixels == 0:
        raise OSEDiffError(f"{path} is damaged: it says that it is {size[0]}x{size[1]} pixels; copy it again")
    at = file.tell()
    length = file.seek(0, io.SEEK_END)
    file.seek(at)
    limit = 2 * (Image.MAX_IMAGE_PIXELS or pixels)
    if pixels > limit:
        raise OSEDiffError(
            f"{path} has too many pixels ({size[0]}x{size[1]}, more than {limit}) to be opened safely; "
            "cut it up first"
        )
    unpacked = pixels * max(each, 4)
    if unpacked > limits.PIXEL_BYTES and unpacked > length * limits.UNPACKED:
        raise OSEDiffError(
            f"{path} has too many pixels ({size[0]}x{size[1]} in {length} bytes) to be opened safely from "
            "so small a file; cut it up first"
        )


def true_notes(opened: Opened, photo: Photo, name: str) -> tuple[Notes, object]:
    """Return the notes as they are true of the upright picture, and the orientation of the pixels.

    Resolution is turned with the picture, and XMP is without the old pixels. EXIF's orientation comes first.
    """
    notes, lost, xmp, orientation = opened.notes, set(opened.notes.lost), None, photo.orientation
    if opened.xmp:
        try:
            xmp, stated = true_xmp(opened.xmp)
            orientation = orientation or stated
        except ValueError as error:
            log.warning("%s: its XMP cannot be used (%s) and was left out", name, error)
        if GAIN_MAP.search(opened.xmp):
            lost.add(APPENDED)
    dpi = notes.dpi or photo.dpi
    if dpi is not None and not all(LOWEST_DPI <= value <= HIGHEST_DPI for value in dpi):  # nan is neither
        dpi = None
    sideways = isinstance(orientation, int) and orientation >= 5
    dpi = dpi[::-1] if dpi and sideways else dpi
    return replace(notes, dpi=dpi, xmp=xmp, lost=frozenset(lost)), None if opened.turned else orientation

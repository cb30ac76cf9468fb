"""What of a photograph's EXIF block is still true after restoration, and the turn that it asks for.

Kept: who, when, where, with what camera and settings. Not kept: the thumbnail (it shows the old picture),
the maker's note (its inner addresses break when the block is written anew, and it may hold a preview), and
tags about how the old file was stored. XMP and IPTC blocks are not carried over.
"""

from __future__ import annotations

import logging

from PIL import Image

log = logging.getLogger(__name__)

# Numbers from the EXIF standard (CIPA DC-008).
ORIENTATION = 0x0112
CAMERA_BLOCK, PLACE_BLOCK = 0x8769, 0x8825
COLOUR_SPACE, WIDTH, HEIGHT = 0xA001, 0xA002, 0xA003
# Description, make, model, resolution (3), software, date, artist, host, ratings, copyright; Windows' own.
GENERAL = (
    *(0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298),
    *(0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F),
)
# Maker's note and the pointer to the block that names the colour space of the old pixels.
STALE_IN_CAMERA_BLOCK = (0x927C, 0xA005)
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
# A JPEG segment holds 65535 bytes with its own length and name in them.
LONGEST = 65000


def keep_exif(image: Image.Image, name: str) -> bytes | None:
    """Return what stays true of the picture's EXIF block, as bytes for `resized_exif`, or None."""
    try:
        return _kept(image)
    except Exception as error:  # damaged blocks make Pillow raise anything; the picture itself is fine
        log.warning("%s: its EXIF block is damaged (%s) and was left out", name, error)
        return None


def _kept(image: Image.Image) -> bytes | None:
    old = image.getexif()
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


def upright(image: Image.Image, name: str) -> Image.Image:
    """Turn and mirror the pixels as the orientation tag says."""
    if image.format == "TIFF":  # Pillow has turned it while decoding, and may still show the tag
        return image
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # said already by `keep_exif`
        return image
    if orientation not in range(1, 9):
        log.warning("%s: its EXIF orientation is %r, not 1 to 8; taken as upright", name, orientation)
        return image
    return image if orientation == 1 else image.transpose(TURNS[orientation])


def resized_exif(block: bytes | None, size: tuple[int, int], name: str) -> bytes | None:
    """The block with the size (width, height) and colour space of the restored picture in it."""
    if block is None:
        return None
    exif = Image.Exif()
    exif.load(block)
    place = dict(exif.get_ifd(PLACE_BLOCK))
    camera = dict(exif.get_ifd(CAMERA_BLOCK))
    camera |= {COLOUR_SPACE: SRGB, WIDTH: size[0], HEIGHT: size[1]}
    exif[CAMERA_BLOCK] = camera
    if place:
        exif[PLACE_BLOCK] = place
    content = exif.tobytes()
    if len(content) > LONGEST:
        log.warning("%s: its EXIF block is too long (%d bytes) and was left out", name, len(content))
        return None
    return content

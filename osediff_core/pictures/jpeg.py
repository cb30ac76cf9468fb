"""JPEG, segment by segment: Pillow is given the pixels alone, so that nothing beside them can stop it."""

from __future__ import annotations

import io
import logging
import re
import struct
from dataclasses import dataclass, field, replace
from functools import partial
from typing import BinaryIO

import numpy as np
from PIL import Image

from .. import limits
from ..errors import OSEDiffError
from .blocks import APPENDED, COMMENT, PHOTOSHOP_NAME, XMP_NAME, Notes, photoshop_iptc
from .exif import exif_of
from .opened import Opened, check_size

log = logging.getLogger(__name__)

EXIF_NAME, PROFILE_NAME, LONG_XMP_NAME = (
    b"Exif\0\0",
    b"ICC_PROFILE\0",
    b"http://ns.adobe.com/xmp/extension/\0",
)
MORE_PICTURES_NAME, GAIN_MAP_NAME = b"MPF\0", b"urn:iso:std:iso:ts:21496:-1\0"
END, SCAN, REMARK = 0xD9, 0xDA, 0xFE
APP0, APP1, APP2, APP11, APP13, APP14 = 0xE0, 0xE1, 0xE2, 0xEB, 0xED, 0xEE
FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)}
UNREADABLE_FRAMES = FRAMES - {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # lossless and hierarchical ones
# A marker inside entropy-coded data: not a stuffed 0, not a restart, not a fill byte.
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
RESTART = re.compile(rb"\xff([\xd0-\xd7])")
# Appended to find out whether a decoder still misses bits: whatever it decodes of these differs.
PADDINGS = (b"\xaa" * 4096, b"\x55" * 4096)


@dataclass
class Segments:
    """What a JPEG is made of: what the decoder needs, what lies beside it, and where it ends."""

    pixels: list[bytes] = field(default_factory=lambda: [b"\xff\xd8"])
    beside: list[tuple[int, bytes]] = field(default_factory=list)
    frame: bytes = b""
    frame_kind: int = 0
    scans: list[bytes] = field(default_factory=list)
    end: int | None = None


def read_jpeg(file: BinaryIO, path: str, name: str) -> Opened:
    """Decode a JPEG. path, name: what errors and warnings call it.

    Raises OSEDiffError where pixels are missing, and for kinds of JPEG that cannot be read.
    """
    file.seek(0)
    content = file.read()
    found = _segments(content)
    if len(found.frame) < 6:
        raise OSEDiffError(f"{path} is damaged or cut off: no picture begins in it; copy it again")
    if found.frame[0] != 8 or found.frame_kind in UNREADABLE_FRAMES:
        kind = (
            "lossless or hierarchical" if found.frame_kind in UNREADABLE_FRAMES else f"{found.frame[0]}-bit"
        )
        raise OSEDiffError(
            f"{path} is a {kind} JPEG, which cannot be read; save it as 8-bit JPEG, PNG or TIFF"
        )
    height, width = struct.unpack(">HH", found.frame[1:5])
    check_size((width, height), file, path)
    if len(found.scans) > limits.SCANS:
        raise OSEDiffError(
            f"{path} passes over its pixels more than {limits.SCANS} times, which would take too long; "
            "save it as JPEG again"
        )
    if found.end is None:
        if not (_covers_all(found) and _is_whole(found)):
            raise OSEDiffError(
                f"{path} is cut off: pixels are missing at its end; copy it again from where it came"
            )
        log.warning("%s: its end (the last two bytes) is missing; every pixel is there", name)
    image = _decoded(found, b"")
    return Opened(
        image,
        profile=_profile(found, name),
        exif=None if (exif := _named(found, APP1, EXIF_NAME)) is None else partial(exif_of, exif),
        xmp=_named(found, APP1, XMP_NAME),
        notes=Notes(
            dpi=image.info.get("dpi"),
            iptc=photoshop_iptc(
                b"".join(
                    data[len(PHOTOSHOP_NAME) :]
                    for kind, data in found.beside
                    if kind == APP13 and data.startswith(PHOTOSHOP_NAME)
                )
            ),
            text=tuple(
                (COMMENT, _text(data)) for kind, data in found.beside if kind == REMARK and data.strip(b"\0 ")
            ),
            lost=_lost(found, content),
        ),
    )


def _segments(content: bytes) -> Segments:
    """Take a JPEG apart, up to its end or to where it cannot be followed any further."""
    found, at = Segments(), 2
    for _ in range(limits.SEGMENTS):
        marker = MARKER.search(content, at)
        if marker is None:
            found.pixels.append(content[at:] if found.scans else b"")
            break
        kind = content[marker.start() + 1]
        # Between segments this is empty, or rubbish; after the head of a scan it is the entropy-coded data.
        found.pixels.append(content[at : marker.start()] if found.scans else b"")
        if kind == END:
            found.end = marker.end()
            break
        at = marker.end()
        length = int.from_bytes(content[at : at + 2], "big")
        whole, at = content[marker.start() : at + length], at + max(length, 2)
        if len(whole) < length + 2:
            break
        if (APP0 < kind <= 0xEF and kind != APP14) or kind == REMARK:
            found.beside.append((kind, whole[4:]))
            continue
        found.pixels.append(whole)
        if kind in FRAMES and not found.frame:
            found.frame, found.frame_kind = whole[4:], kind
        elif kind == SCAN:
            found.scans.append(whole[4:])
            if len(found.scans) > limits.SCANS:
                break
    return found


def _decoded(found: Segments, padding: bytes) -> Image.Image:
    with Image.open(io.BytesIO(b"".join([*found.pixels, padding, b"\xff\xd9"])), formats=("JPEG",)) as image:
        image.load()
        return image


def _covers_all(found: Segments) -> bool:
    """Whether the scans that are there give every component, all frequencies and all bits."""
    components = {found.frame[i] for i in range(6, len(found.frame), 3)}
    seen: dict[int, set[int]] = {component: set() for component in components}
    for scan in found.scans:
        count = scan[0] if scan else 0
        first, last, bits = scan[1 + 2 * count : 4 + 2 * count].rjust(3, b"\0")
        if bits & 15 == 0:  # the low half says how many bits are still to come
            for i in range(count):
                seen.setdefault(scan[1 + 2 * i], set()).update(range(first, last + 1))
    return all(seen[component] >= set(range(64)) for component in components)


def _is_whole(found: Segments) -> bool:
    """Whether the last scan, which no end follows, has all of its bits.

    A copy that was broken off may be filled up with zeros. Zeros can be pixels too, but then there is not one
    too many of them.
    """
    last = found.pixels[-1]
    filled = last.rstrip(b"\0")
    filled += b"\0" * filled.endswith(b"\xff")  # a zero belongs to each 255
    if _needs_nothing(found, filled):
        return True
    return filled != last and _needs_nothing(found, last) and not _needs_nothing(found, last[:-1])


def _needs_nothing(found: Segments, last: bytes) -> bool:
    """Whether nothing that follows the last scan changes a pixel."""
    restarts = RESTART.findall(last)
    # A decoder that waits for a restart skips all before it.
    following = bytes([0xFF, 0xD0 + (restarts[-1][0] - 0xD0 + 1) % 8 if restarts else 0xD0])
    scan = replace(found, pixels=[*found.pixels[:-1], last])
    first = np.asarray(_decoded(scan, b""))
    return all(np.array_equal(first, np.asarray(_decoded(scan, p + following + p))) for p in PADDINGS)


def _named(found: Segments, kind: int, name: bytes) -> bytes | None:
    return next((data[len(name) :] for k, data in found.beside if k == kind and data.startswith(name)), None)


def _profile(found: Segments, name: str) -> bytes | None:
    """Join the parts of the ICC profile, which are numbered from 1."""
    parts = [
        data[len(PROFILE_NAME) :]
        for kind, data in found.beside
        if kind == APP2 and data.startswith(PROFILE_NAME)
    ]
    if not parts:
        return None
    numbered = {part[0]: part[2:] for part in parts if len(part) > 2}
    if sorted(numbered) != list(range(1, len(parts) + 1)):
        log.warning("%s: its colour profile cannot be used (parts are missing); colours may be off", name)
        return None
    profile = b"".join(numbered[number] for number in sorted(numbered))
    return profile if len(profile) <= limits.BLOCK_BYTES else None


def _text(data: bytes) -> str:
    try:
        return data.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError:
        return data.rstrip(b"\0").decode("latin-1")


def _lost(found: Segments, content: bytes) -> frozenset[str]:
    lost = set()
    if any(
        kind == APP2 and data.startswith((MORE_PICTURES_NAME, GAIN_MAP_NAME)) for kind, data in found.beside
    ):
        lost.add(APPENDED)
    if found.end is not None and content[found.end :].strip(b"\0 \r\n"):
        lost.add(APPENDED)
    if any(kind == APP11 for kind, _ in found.beside):
        lost.add("content credentials (C2PA)")
    if any(kind == APP1 and data.startswith(LONG_XMP_NAME) for kind, data in found.beside):
        lost.add("extended XMP")
    return frozenset(lost)

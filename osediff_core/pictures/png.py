"""PNG, chunk by chunk: Pillow is given the pixels alone, so that nothing beside them can stop it.

Chunks, their precedence (cICP, iCCP, sRGB, then gAMA and cHRM) and their checksums: PNG, third edition.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

import numpy as np
from PIL import Image

from .. import limits
from ..errors import OSEDiffError
from .blocks import Notes, inflate
from .encodings import Encoding, from_code_points, from_figures
from .exif import exif_of
from .opened import WITH_ALPHA, Full, Opened, check_size
from .pixels import in_full, levels

log = logging.getLogger(__name__)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
COLOUR = {b"cICP": "its colour space (cICP)", b"iCCP": "its colour profile", b"gAMA": "its gamma"}
COLOUR |= {b"cHRM": "its primaries", b"tRNS": "its transparency", b"eXIf": "its EXIF block"}
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
XMP_KEY, RAW_EXIF = "XML:com.adobe.xmp", "Raw profile type exif"
INCH = 0.0254  # in metres, the unit of pHYs
# Bytes that a pixel takes while it is read, by the kind of colours, in 8 bit; in 16, four times as many.
PIXEL_BYTES = {0: 1, 2: 3, 3: WITH_ALPHA, 4: WITH_ALPHA, 6: WITH_ALPHA}
KEYS = {0: 2, 2: 6, 3: 256}  # bytes of tRNS by the kind of colours; of palettes, at most so many
# Samples a pixel, and how Pillow decodes them to bytes: as they are, or high bytes and low bytes apart.
DEEP = {2: ("RGB", "RGB;16B", "RGB;16L"), 4: ("RGBA", "RGBA", None), 6: ("RGBA", "RGBA;16B", "RGBA;16L")}


@dataclass
class Chunks:
    """What was found: one content of each kind that matters, the parts of the pixels, and the texts."""

    single: dict[bytes, bytes] = field(default_factory=dict)
    pixels: list[bytes] = field(default_factory=list)
    text: list[tuple[str, str]] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)


def read_png(file: BinaryIO, path: str, name: str) -> Opened:
    """Decode a PNG. path, name: what errors and warnings call it.

    Raises OSEDiffError for damaged pixels, and for colours that cannot be converted.
    """
    chunks = _chunks(file, path, name)
    depth = chunks.single[b"IHDR"][8]
    profile, encoding = _colours(chunks.single, path, name)
    image, full = _decoded(chunks, encoding if depth == 16 else None, name)
    texts = dict(chunks.text)
    exif = chunks.single.get(b"eXIf")
    if exif is None and RAW_EXIF in texts:
        exif = _raw_profile(texts[RAW_EXIF], name)
    raw = any(key.startswith("Raw profile type") and key != RAW_EXIF for key in texts)
    xmp = texts.get(XMP_KEY)
    return Opened(
        image,
        profile=profile,
        encoding=None if depth == 16 else encoding,
        exif=None if exif is None else partial(exif_of, exif),
        xmp=None if xmp is None else xmp.encode("utf-8"),
        full=full,
        more=int.from_bytes(chunks.single.get(b"acTL", b"")[:4], "big") > 1,
        notes=Notes(
            dpi=_dpi(chunks.single.get(b"pHYs", b"")),
            text=tuple(
                (k, t) for k, t in chunks.text if k != XMP_KEY and not k.startswith("Raw profile type")
            ),
            lost=frozenset(chunks.lost | ({"raw profiles in text"} if raw else set())),
        ),
    )


def _chunks(file: BinaryIO, path: str, name: str) -> Chunks:
    """Sort the chunks. What is damaged among the needed ones ends it, among others it is left out."""
    found, room, ended = Chunks(), limits.TEXTS_BYTES, False
    for kind, content in _walk(file, path, name):
        if kind == b"IHDR" and not found.single:
            if len(content) != 13:
                raise OSEDiffError(
                    f"{path} is damaged: its header is {len(content)} bytes long; copy it again"
                )
            width, height, depth, colours = struct.unpack(">IIBB", content[:10])
            check_size((width, height), file, path, PIXEL_BYTES.get(colours, 1) * (4 if depth == 16 else 1))
            found.single[kind] = content
        elif not found.single:
            raise OSEDiffError(f"{path} is damaged: its header is missing; copy it again from where it came")
        elif kind == b"IDAT":
            found.pixels.append(content)
        elif kind in TEXTS:
            room = _add_text(found, kind, content, room, name)
        elif kind == b"caBX":
            found.lost.add("content credentials (C2PA)")
        elif kind == b"IEND":
            ended = True
            break
        elif kind in CRITICAL or kind[0] & 0x20:
            found.single.setdefault(kind, content)
        else:
            raise OSEDiffError(
                f"{path} holds the chunk {kind.decode()}, no part of PNG; save it as PNG again"
            )
    if not found.pixels:
        raise OSEDiffError(
            f"{path} is damaged or cut off: it holds no pixels; copy it again from where it came"
        )
    key, most = found.single.get(b"tRNS"), KEYS.get(found.single[b"IHDR"][9])
    if key is not None and (most is None or (len(key) != most if most < 256 else not 1 <= len(key) <= most)):
        log.warning("%s: its transparency is damaged and was left out", name)
        del found.single[b"tRNS"]
    if not ended:
        log.warning("%s: its end is missing; every pixel is there", name)
    return found


def _walk(file: BinaryIO, path: str, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Give kind and content of each chunk that is whole; a needed one that is not raises OSEDiffError."""
    size = file.seek(0, io.SEEK_END)
    at = len(SIGNATURE)
    while at + 8 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        needed = kind in CRITICAL
        if not kind.isalpha() or not kind.isascii():
            raise OSEDiffError(f"{path} is damaged: it holds no chunk {at} bytes into it; copy it again")
        at += 12 + length
        if at > size and not (kind == b"IEND" and length == 0):
            if needed:
                raise OSEDiffError(f"{path} is cut off: {at - size} bytes are missing; copy it again")
            return
        if length > limits.BLOCK_BYTES and not needed:
            log.warning(
                "%s: its chunk %s of %d bytes is too long to be read; left out", name, kind.decode(), length
            )
            continue
        content = file.read(length)
        if kind != b"IEND" and file.read(4) != struct.pack(">I", zlib.crc32(kind + content)):
            if needed:
                raise OSEDiffError(
                    f"{path} is damaged: the checksum of its {kind.decode()} is wrong; copy it again"
                )
            what = COLOUR.get(kind, f"the chunk {kind.decode()}")
            log.warning("%s: %s is damaged (wrong checksum) and was left out", name, what)
            continue
        yield kind, content


def _add_text(found: Chunks, kind: bytes, content: bytes, room: int, name: str) -> int:
    """Keep a text where it can be read and there is room; return the room that is left, in bytes."""
    key, _, rest = content.partition(b"\0")
    try:
        if kind == b"tEXt":
            text = rest.decode("latin-1")
        elif kind == b"zTXt":
            text = inflate(rest[1:], min(room, limits.BLOCK_BYTES)).decode("latin-1")
        else:
            packed, body = (
                rest[:1] == b"\1",
                rest[2:].split(b"\0", 2)[-1],
            )  # language and translated key come first
            text = (inflate(body, min(room, limits.BLOCK_BYTES)) if packed else body).decode("utf-8")
    except ValueError as error:  # UnicodeDecodeError is one
        found.lost.add(f"a text that cannot be read ({error})")
        return room
    if len(text) > room:
        found.lost.add(f"texts beyond {limits.TEXTS_BYTES >> 20} MiB")
        return 0
    found.text.append((key.decode("latin-1"), text))
    return room - len(text)


def _colours(chunks: dict[bytes, bytes], path: str, name: str) -> tuple[bytes | None, Encoding | None]:
    """Return the profile or the encoding of the pixels, whichever PNG gives precedence; neither is sRGB."""
    if len(stated := chunks.get(b"cICP", b"")) == 4:
        primaries, transfer, _, full = stated
        try:
            return None, from_code_points(primaries, transfer, full_range=full == 1)
        except OSEDiffError as error:
            raise OSEDiffError(f"{path} {error}") from error
    if b"iCCP" in chunks:
        try:
            return inflate(chunks[b"iCCP"].partition(b"\0")[2][1:]), None
        except ValueError as error:
            log.warning("%s: its colour profile cannot be used (%s); colours may be off", name, error)
    if b"sRGB" in chunks:
        return None, None
    gamma, places = chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b"")
    try:
        red = [value / 100000 for value in struct.unpack(">8I", places)] if len(places) == 32 else None
        # cHRM begins with white; elsewhere it is the last.
        pairs = None if red is None else tuple((red[i], red[i + 1]) for i in (2, 4, 6, 0))
        return None, from_figures(int.from_bytes(gamma, "big") / 100000 if len(gamma) == 4 else None, pairs)  # type: ignore[arg-type]
    except ValueError as error:
        log.warning("%s: what it says of its colours cannot be used (%s); taken as sRGB", name, error)
        return None, None


def _decoded(chunks: Chunks, encoding: Encoding | None, name: str) -> tuple[Image.Image, Full | None]:
    """Decode the pixels; 16-bit ones become 8-bit sRGB by way of all of their bits, which come beside."""
    depth, kind = chunks.single[b"IHDR"][8:10]
    with Image.open(_pixels_only(chunks), formats=("PNG",)) as image:
        if depth != 16:
            image.load()
            return image, None
        if kind == 0:
            values = np.asarray(image).astype(np.uint16)[..., None]  # (H, W, 1)
            return _to_levels(values, chunks.single.get(b"tRNS"), encoding, name)
    mode, high, low = DEEP[kind]
    first = _raw(chunks, mode, high)
    if low is None:  # two samples of two bytes, in the four bytes of a pixel
        values = first.reshape(*first.shape[:2], 2, 2).astype(np.uint16) @ np.array([256, 1], np.uint16)
    else:
        values = first.astype(np.uint16) << 8 | _raw(chunks, mode, low)
    return _to_levels(values, chunks.single.get(b"tRNS"), encoding, name)


def _pixels_only(chunks: Chunks) -> BinaryIO:
    """Return a PNG of what the decoder needs, and nothing else."""
    parts = [SIGNATURE]
    needed = [(kind, chunks.single[kind]) for kind in (b"IHDR", b"PLTE", b"tRNS") if kind in chunks.single]
    for kind, content in (*needed, (b"IDAT", b"".join(chunks.pixels)), (b"IEND", b"")):
        parts += [
            struct.pack(">I", len(content)),
            kind,
            content,
            struct.pack(">I", zlib.crc32(kind + content)),
        ]
    return io.BytesIO(b"".join(parts))


def _raw(chunks: Chunks, mode: str, rawmode: str) -> np.ndarray:
    """Decode to bytes (H, W, 3 or 4) in another arrangement than Pillow's own choice."""
    with Image.open(_pixels_only(chunks), formats=("PNG",)) as image:
        image._mode = mode  # type: ignore[attr-defined]
        decoder, extents, offset, _ = image.tile[0]  # type: ignore[attr-defined]
        image.tile = [(decoder, extents, offset, rawmode)]  # type: ignore[attr-defined]
        image.info.pop("transparency", None)
        image.load()
        return np.asarray(image)


def _to_levels(
    values: np.ndarray, key: bytes | None, encoding: Encoding | None, name: str
) -> tuple[Image.Image, Full]:
    """Bring uint16 (H, W, 1 to 4) to 8 bit, with alpha where a key or a channel says so."""
    channels = values.shape[-1]
    colour, alpha = (
        (values[..., :-1], levels(values[..., -1], name)) if channels in (2, 4) else (values, None)
    )
    if alpha is None and key is not None and len(key) == 2 * channels:
        alpha = np.where((values == np.frombuffer(key, ">u2")).all(-1), 0, 255).astype(np.uint8)
    if encoding is None or encoding.is_srgb:
        shown, full = levels(colour, name), partial(in_full, colour, name)
    else:
        three = np.broadcast_to(colour, (*colour.shape[:2], 3))
        shown, full = encoding.to_srgb(three), partial(encoding.to_srgb, three, full=True)
    image = Image.fromarray(shown[..., 0] if shown.shape[-1] == 1 else shown)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    return image, full


def _dpi(content: bytes) -> tuple[float, float] | None:
    if len(content) != 9 or content[8] != 1:  # no unit, but only the shape of a pixel
        return None
    across, down = struct.unpack(">II", content[:8])
    return (across * INCH, down * INCH) if across and down else None


def _raw_profile(text: str, name: str) -> bytes | None:
    """EXIF as ImageMagick writes it: a name, a length, and lines of hexadecimal digits."""
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        log.warning("%s: its EXIF block is damaged and was left out", name)
        return None

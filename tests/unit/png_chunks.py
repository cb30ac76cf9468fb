"""PNGs put together chunk by chunk, to say what no library writes."""

from __future__ import annotations

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KINDS = {1: 0, 2: 4, 3: 2, 4: 6}  # number of channels to PNG's colour type


def chunk(kind: bytes, content: bytes, *, wrong: bool = False) -> bytes:
    """One chunk; wrong: with a checksum that is not its own."""
    checksum = zlib.crc32(kind + content) ^ wrong
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(pixels: np.ndarray, before: bytes = b"", after: bytes = b"", *, end: bool = True) -> bytes:
    """A PNG of uint8 or uint16 (H, W, 1 to 4), with chunks before and after its pixels."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, pixels.dtype.itemsize * 8, KINDS[channels], 0, 0, 0)
    body = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + after
    return SIGNATURE + body + (chunk(b"IEND", b"") if end else b"")

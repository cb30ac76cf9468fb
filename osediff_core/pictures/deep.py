"""Files of 16 bits a sample, of which Pillow writes none in colour: it writes the rest of the file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

Encode = Callable[[Image.Image], bytes]
"""Pillow's encoder of a format, with all that lies beside the pixels."""
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
ROWS = 64  # compressed at once
DEPTH_AT = 8  # in PNG's header: behind width and height
UP = 2  # PNG's filter by which a row is its difference from the one above
TIFF_WIDTH, TIFF_BITS = 256, 258


def encode_png(values: np.ndarray, encode: Encode) -> bytes:
    """Return a PNG of uint16 (H, W, 1 to 4): what Pillow makes of an empty picture, with these pixels."""
    empty = encode(Image.new(MODES[values.shape[-1]], values.shape[1::-1]))
    parts, at = [empty[:8]], 8
    while at < len(empty):
        length, kind = struct.unpack(">I4s", empty[at : at + 8])
        content = empty[at + 8 : at + 8 + length]
        at += 12 + length
        if kind == b"IHDR":
            content = content[:DEPTH_AT] + b"\x10" + content[DEPTH_AT + 1 :]
        elif kind == b"IEND":
            parts.append(_chunk(b"IDAT", _packed(values)))
        if kind != b"IDAT":
            parts.append(_chunk(kind, content))
    return b"".join(parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _packed(values: np.ndarray) -> bytes:
    """Compress rows of samples, the high byte first, each as its difference from the row above."""
    height, width, channels = values.shape
    stream, above = zlib.compressobj(), np.zeros((1, width * channels * 2), np.uint8)
    parts = []
    for row in range(0, height, ROWS):
        raw = values[row : row + ROWS].astype(">u2").view(np.uint8).reshape(-1, width * channels * 2)
        lines = np.empty((len(raw), 1 + raw.shape[1]), np.uint8)
        lines[:, 0] = UP
        lines[:, 1:] = raw - np.concatenate([above, raw[:-1]])
        parts.append(stream.compress(lines.tobytes()))
        above = raw[-1:]
    return b"".join([*parts, stream.flush()])


def encode_tiff(values: np.ndarray, encode: Encode) -> bytes:
    """Return a TIFF of uint16 (H, W, 1 to 4).

    Its bytes are those of an uncompressed picture of 8 bits and twice the width, but for two tags. Grey with
    alpha becomes RGB with alpha: Pillow, for one, opens no such TIFF.
    """
    values = values[..., [0, 0, 0, 1]] if values.shape[-1] == 2 else values
    height, width, channels = values.shape
    bytes_ = np.ascontiguousarray(values.astype("<u2")).view(np.uint8).reshape(height, 2 * width, channels)
    content = bytearray(encode(Image.fromarray(bytes_[..., 0] if channels == 1 else bytes_, MODES[channels])))
    order = "<" if content[:2] == b"II" else ">"
    (at,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", content, entry)
        if tag == TIFF_WIDTH:
            struct.pack_into(f"{order}{'H' if kind == 3 else 'I'}", content, entry + 8, width)
        elif tag == TIFF_BITS:
            inside = 2 * number <= 4
            place = entry + 8 if inside else struct.unpack_from(f"{order}I", content, entry + 8)[0]
            struct.pack_into(f"{order}{number}H", content, place, *[16] * number)
    return bytes(content)


ENCODERS = {"PNG": encode_png, "TIFF": encode_tiff}
"""Formats that hold 16 bits a sample."""

"""TIFFs put together tag by tag, to say what no library writes."""

from __future__ import annotations

import struct
import zlib

import numpy as np

PHOTOMETRIC = {"white is zero": 0, "grey": 1, "RGB": 2, "CMYK": 5}
FORMATS = {"u": 1, "i": 2, "f": 3}


def tiff(tags, data, order="<"):
    """A TIFF of one page; `data` are its strips or tiles, tags are (number, type, values), a fraction two."""
    size = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
    places = 8 + sum(len(part) for part in data)
    offsets = np.cumsum([8, *[len(part) for part in data[:-1]]]).tolist()
    tiled = any(number == 322 for number, _, _ in tags)
    tags = [
        *tags,
        (324 if tiled else 273, 4, offsets),
        (325 if tiled else 279, 4, [len(part) for part in data]),
    ]
    body, outside, at = b"", b"", places + 2 + 12 * len(tags) + 4
    for number, kind, values in sorted(tags):
        letter = {1: "B", 2: "B", 3: "H", 4: "I", 5: "I", 7: "B"}[kind]
        content = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(content) > 4:
            inside, outside = struct.pack(f"{order}I", at + len(outside)), outside + content
        else:
            inside = content.ljust(4, b"\0")
        body += struct.pack(f"{order}HHI", number, kind, len(content) // size[kind]) + inside
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", places)
    return head + b"".join(data) + struct.pack(f"{order}H", len(tags)) + body + bytes(4) + outside


def stored(samples, kind, order="<", *, planar=False, deflate=False, predictor=1, tile=None, extra=()):
    """A TIFF of samples (H, W, C) of any type."""
    height, width, count = samples.shape
    bits = samples.dtype.itemsize * 8
    tags = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits] * count),
        (259, 3, [8 if deflate else 1]),
        (262, 3, [PHOTOMETRIC[kind]]),
        (277, 3, [count]),
        (284, 3, [2 if planar else 1]),
        (317, 3, [predictor]),
        (339, 3, [FORMATS[samples.dtype.kind]] * count),
    ]
    tags += [(338, 3, list(extra))] if extra else []
    down, across = tile or (5, width)
    tags += [(322, 3, [across]), (323, 3, [down])] if tile else [(278, 3, [down])]
    planes = [samples[..., i : i + 1] for i in range(count)] if planar else [samples]
    parts = []
    for plane in planes:
        for y in range(0, height, down):
            for x in range(0, width, across):
                part = plane[y : y + down, x : x + across]
                if tile:
                    gap = [(0, down - part.shape[0]), (0, across - part.shape[1]), (0, 0)]
                    part = np.pad(part, gap, mode="edge")
                content = predicted(part, predictor, order)
                parts.append(zlib.compress(content) if deflate else content)
    return tiff(tags, parts, order)


def predicted(part, predictor, order):
    """The bytes of a strip: samples themselves, or differences of samples (2) or of bytes (3)."""
    size = part.dtype.itemsize
    if predictor == 3:
        rows = part.astype(part.dtype.newbyteorder(">")).reshape(part.shape[0], -1)
        apart = np.frombuffer(rows.tobytes(), np.uint8).reshape(len(rows), -1, size).transpose(0, 2, 1)
        apart = apart.reshape(len(rows), -1, part.shape[2])
        return np.diff(apart, axis=1, prepend=np.uint8(0)).astype(np.uint8).tobytes()
    if predictor == 2:
        whole = part.view(f"u{size}")
        part = np.diff(whole, axis=1, prepend=np.zeros_like(whole[:, :1]))
    return part.astype(part.dtype.newbyteorder(order)).tobytes()

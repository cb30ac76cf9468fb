"""ICC profiles that are a curve for each channel and a matrix, applied with all bits: Pillow's lcms gives 8.

Those of cameras' and editors' RGB spaces (Adobe RGB, Display P3, ProPhoto) and of grey are of this kind.
Layouts are those of ICC.1:2022, sections 9 and 10.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from .encodings import ROWS, encode_srgb

Curve = Callable[[np.ndarray], np.ndarray]
# Colorants of sRGB, adapted to D50, as columns: what linear red, green and blue are in a profile's XYZ.
SRGB_TO_XYZ = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
MOST_TAGS = 100
HEAD, ENTRY, FIXED = 128, 12, 65536  # bytes of the header and of a tag's entry; s15Fixed16's one
PARAMETERS = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}  # of a parametric curve, by its kind


def converter(profile: bytes) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return what converts float32 (H, W, 1 or 3) in [0, 1] to sRGB by a profile; None for other kinds."""
    try:
        with np.errstate(all="ignore"):
            convert = _converter(profile)
            ramp = np.linspace(0, 1, 1024, dtype=np.float32)[:, None, None]
            good = convert is not None and np.isfinite(convert(ramp)).all()
    except (LookupError, ValueError, struct.error):
        return None
    return convert if good else None


def _converter(profile: bytes) -> Callable[[np.ndarray], np.ndarray] | None:
    tags = _tags(profile)
    space, connection = profile[16:20], profile[20:24]
    if b"A2B0" in tags:
        return None
    if space == b"GRAY" and connection in (b"XYZ ", b"Lab "):
        return _by(np.eye(1), [_curve(tags[b"kTRC"])])
    if space != b"RGB " or connection != b"XYZ ":
        return None
    colorants = np.array([_numbers(tags[kind], 8, 3) for kind in (b"rXYZ", b"gXYZ", b"bXYZ")]).T
    curves = [_curve(tags[kind]) for kind in (b"rTRC", b"gTRC", b"bTRC")]
    return _by(np.linalg.inv(SRGB_TO_XYZ) @ colorants, curves)


def _by(matrix: np.ndarray, curves: list[Curve]) -> Callable[[np.ndarray], np.ndarray]:
    def convert(values: np.ndarray) -> np.ndarray:
        out = np.empty(values.shape, np.float32)
        for row in range(0, len(values), ROWS):
            part = values[row : row + ROWS]
            channels = [
                part[..., i % part.shape[-1]] for i in range(len(curves))
            ]  # grey may be of three curves
            light = np.stack([curve(x) for curve, x in zip(curves, channels, strict=True)], -1) @ matrix.T
            srgb = encode_srgb(light.clip(0, 1))
            out[row : row + ROWS] = srgb.mean(-1, keepdims=True) if part.shape[-1] == 1 else srgb
        return out

    return convert


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack(">I", profile[HEAD : HEAD + 4])
    found = {}
    for at in range(HEAD + 4, HEAD + 4 + ENTRY * min(count, MOST_TAGS), ENTRY):
        kind, place, size = struct.unpack(">4sII", profile[at : at + ENTRY])
        found[kind] = profile[place : place + size]
    return found


def _numbers(content: bytes, at: int, count: int) -> np.ndarray:
    return np.array(struct.unpack(f">{count}i", content[at : at + 4 * count])) / FIXED


def _curve(content: bytes) -> Curve:
    """Return what makes light of a channel's numbers."""
    if content[:4] == b"para":
        kind = int.from_bytes(content[8:10], "big")
        return _parametric(*_numbers(content, 12, PARAMETERS[kind]))
    if content[:4] != b"curv":
        raise ValueError("it is no curve")
    (count,) = struct.unpack(">I", content[8:12])
    if count == 0:
        return lambda x: x
    table = np.frombuffer(content[12 : 12 + 2 * count], ">u2")
    if len(table) != count:
        raise ValueError("it is cut off")
    if count == 1:
        return lambda x: x ** (table[0] / 256)
    return lambda x: np.interp(x, np.linspace(0, 1, count), table / 65535)


def _parametric(g: float, *rest: float) -> Curve:
    """Compute (a x + b)^g + e from d on, c x + f below it: all five kinds, with what they leave out."""
    a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if len(rest) in (2, 3):  # below -b/a there is nothing but a constant
        a, b, *more = rest
        d = -b / a
        e = f = more[0] if more else 0.0
    elif rest:
        a, b, c, d, *more = rest
        e, f = more or (0.0, 0.0)
    return lambda x: np.where(x >= d, np.clip(a * x + b, 0, None) ** g + e, c * x + f)

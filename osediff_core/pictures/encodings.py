"""What a picture's numbers mean as light, where a file says it in figures instead of by a profile.

Code points are those of ITU-T H.273, which PNG's cICP and AVIF's nclx share; chromaticities are CIE 1931 xy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import OSEDiffError

D65 = (0.3127, 0.3290)
SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65)  # red, green, blue, white
ADOBE_PRIMARIES = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), D65)
ADOBE_GAMMA = 563 / 256  # of Adobe RGB (1998)
C = (0.310, 0.316)
# H.273, table 2: colour primaries. 2 is "unspecified", which is taken as sRGB as everywhere.
PRIMARIES = {
    1: SRGB_PRIMARIES,
    2: SRGB_PRIMARIES,
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), C),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), D65),
}
# H.273, table 3: transfer characteristics, as the exponent that gives light; None is sRGB's own curve. The
# curves of cameras (1, 6, 7, 11, 12, 14, 15) are shown with sRGB's, as screens and browsers do.
TRANSFERS = {1: None, 2: None, 4: 2.2, 5: 2.8, 6: None, 7: None, 8: 1.0, 11: None, 12: None, 13: None}
TRANSFERS |= {14: None, 15: None}
HIGH_DYNAMIC_RANGE = {16: "PQ", 18: "HLG"}
# How far figures may be from sRGB's and still mean it: what libpng allows.
SAME_GAMMA, SAME_PRIMARIES = 0.05, 0.01
SRGB_GAMMA = 1 / 0.45455
# Exponents beyond these are a fault of the file; the widest that real software wrote lie well inside.
LOWEST_GAMMA, HIGHEST_GAMMA = 0.2, 10.0
# The Bradford matrix: responses of the eye's cones, between which a white point is exchanged.
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
ROWS = 256  # converted at once, so that no floating-point copy of a whole picture is made

Primaries = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Encoding:
    """How numbers become light. gamma: the exponent; None is sRGB's curve. primaries: with white, as x, y."""

    gamma: float | None = None
    primaries: Primaries = SRGB_PRIMARIES

    @property
    def is_srgb(self) -> bool:
        """Whether pixels are sRGB already, within what files mean by sRGB."""
        return self.gamma is None and self.primaries == SRGB_PRIMARIES

    def to_srgb(self, values: np.ndarray, *, full: bool = False) -> np.ndarray:
        """Convert uint8 or uint16 (H, W, 3) to 8-bit sRGB, (H, W, 3); colours outside of it are clipped.

        full: to float32 in [0, 1] instead, not rounded to levels.
        """
        levels = np.arange(np.iinfo(values.dtype).max + 1) / np.iinfo(values.dtype).max
        light = _from_srgb(levels) if self.gamma is None else levels**self.gamma
        if self.primaries == SRGB_PRIMARIES:
            return _stored(encode_srgb(light), full)[values]
        matrix = np.linalg.inv(_to_xyz(SRGB_PRIMARIES)) @ _to_xyz(self.primaries)
        out = np.empty(values.shape, np.float32 if full else np.uint8)
        for row in range(0, len(values), ROWS):
            linear = light[values[row : row + ROWS]] @ matrix.T
            out[row : row + ROWS] = _stored(encode_srgb(linear.clip(0, 1)), full)
        return out


def _stored(srgb: np.ndarray, full: bool) -> np.ndarray:
    return srgb.astype(np.float32) if full else np.rint(srgb * 255).astype(np.uint8)


def from_code_points(primaries: int, transfer: int, *, full_range: bool) -> Encoding:
    """Return the encoding of H.273's code points. Raises OSEDiffError for those that cannot be converted."""
    if transfer in HIGH_DYNAMIC_RANGE:
        raise OSEDiffError(
            f"is a high dynamic range picture ({HIGH_DYNAMIC_RANGE[transfer]}), which needs tone mapping; "
            "export it in standard dynamic range (sRGB or Display P3) first"
        )
    if primaries not in PRIMARIES or transfer not in TRANSFERS or not full_range:
        raise OSEDiffError(
            f"declares its colours as primaries {primaries}, transfer {transfer}, "
            f"{'full' if full_range else 'narrow'} range, which cannot be converted; export it as sRGB"
        )
    return Encoding(TRANSFERS[transfer], PRIMARIES[primaries])


def from_figures(file_gamma: float | None, primaries: Primaries | None) -> Encoding:
    """Return the encoding of PNG's gAMA (the exponent that made the file) and cHRM; None: is not there.

    Raises ValueError for figures that no picture can have.
    """
    gamma = None
    if file_gamma is not None:
        if not 1 / HIGHEST_GAMMA <= file_gamma <= 1 / LOWEST_GAMMA:
            raise ValueError(f"its gamma is {file_gamma:g}")
        gamma = 1 / file_gamma
        gamma = None if abs(gamma / SRGB_GAMMA - 1) <= SAME_GAMMA else gamma
    if primaries is None or np.abs(np.subtract(primaries, SRGB_PRIMARIES)).max() <= SAME_PRIMARIES:
        return Encoding(gamma)
    matrix = (
        _to_xyz(primaries) if all(0 < y <= 1 and 0 <= x <= 1 for x, y in primaries) else np.full(1, np.nan)
    )
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 10:
        raise ValueError("its primaries are no colours")
    return Encoding(gamma, primaries)


def _to_xyz(primaries: Primaries) -> np.ndarray:
    """Return the matrix (3, 3) from linear red, green, blue to XYZ, seen under D65."""
    xyz = np.array(
        [[x / y, 1, (1 - x - y) / y] for x, y in primaries]
    ).T  # a column for each of r, g, b, white
    with np.errstate(all="ignore"):
        try:
            matrix = xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
        except np.linalg.LinAlgError:  # three primaries on one line
            return np.full((3, 3), np.nan)
        to = BRADFORD @ np.array([D65[0] / D65[1], 1, (1 - D65[0] - D65[1]) / D65[1]])
        adapt = np.linalg.inv(BRADFORD) @ np.diag(to / (BRADFORD @ xyz[:, 3])) @ BRADFORD
        return adapt @ matrix


def _from_srgb(levels: np.ndarray) -> np.ndarray:
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def encode_srgb(light: np.ndarray) -> np.ndarray:
    """Return the numbers in [0, 1] that sRGB has for linear light in [0, 1], of any shape."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)

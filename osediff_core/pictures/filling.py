"""Copies that were broken off and filled up with zeros, where the decoder takes zeros for pixels."""

from __future__ import annotations

import io
import logging

import numpy as np
from PIL import Image

log = logging.getLogger(__name__)

SECTOR = 512  # bytes of zeros at the end of stored pixels that may be filling
CODED = 64  # the same of coded pixels, where so many zeros are rare
OTHER = b"\xa5" * 16


def warn_of_filling(samples: np.ndarray, name: str) -> None:
    """Warn where the last of stored samples (H, W, ...), in the order of the file, may be filling.

    Nothing but the picture tells filling from black: whole rows of black are a border, and what begins within
    a row is doubtful.
    """
    rows = samples.reshape(len(samples), -1)
    lit = rows.any(1).nonzero()[0]
    if not len(lit):
        return
    black = rows.shape[1] - 1 - int(rows[lit[-1]].nonzero()[0][-1])  # samples at the end of the last lit row
    if black and (black + rows[lit[-1] + 1 :].size) * rows.itemsize >= SECTOR:
        log.warning(
            "%s ends in zeros from the middle of a row on: if it is not black there, a copy was broken "
            "off and filled up; copy it again",
            name,
        )


def is_filled_up(content: bytes, kind: str, image: Image.Image) -> bool:
    """Whether the coded pixels of a WebP, AVIF, HEIC or TIFF file end in zeros that no pixel needs.

    image: what was decoded. Zeros can be pixels too, and those of a flat picture are, but a whole file has
    none too many: where the last of them can be others and nothing changes, they are filling.
    """
    length = _length(content, kind)
    zeros = len(content[:length]) - len(content[:length].rstrip(b"\0"))
    blocks = (image.info.get(key) or b"" for key in ("exif", "xmp"))
    if zeros < CODED or any(block.endswith(b"\0" * CODED) for block in blocks if isinstance(block, bytes)):
        return False
    if kind == "HEIF":  # HEVC never has three zeros in a row, and its decoder changes all that follows
        return True
    changed = content[: length - len(OTHER)] + OTHER + content[length:]
    try:
        with Image.open(io.BytesIO(changed), formats=(kind,)) as other:
            return other.tobytes() == image.tobytes()
    except Exception:  # the decoder needs them
        return False


def _length(content: bytes, kind: str) -> int:
    """Return where a file ends by its own account; what was put behind it is nobody's."""
    if kind == "WEBP":
        return min(8 + int.from_bytes(content[4:8], "little"), len(content))
    if kind == "TIFF":
        return len(content)
    at = 0
    while content[at + 4 : at + 8].isalnum():  # boxes: a length and a name
        length = int.from_bytes(content[at : at + 4], "big")
        length = int.from_bytes(content[at + 8 : at + 16], "big") if length == 1 else length
        at += length if length >= 8 else len(content)  # 0: to the end
    return min(at, len(content))

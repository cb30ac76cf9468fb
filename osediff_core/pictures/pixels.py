"""What a decoded picture's pixels mean: transparency, depth and colour space, brought to 8-bit sRGB."""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from ..errors import OSEDiffError
from .encodings import Encoding

log = logging.getLogger(__name__)

DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
ROWS = 256  # scaled at once, so that no floating-point copy of a whole picture is made
# What the four-letter colour spaces of a profile are called in Pillow.
PROFILE_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
# A profile that moves no colour by more levels than this is sRGB under another name: pixels are left alone.
SAME_COLOUR = 2
# cmsFLAGS_BLACKPOINTCOMPENSATION of lcms2.h; the first Pillow 10 has no name for it.
BLACK_POINT_COMPENSATION = 0x2000


def split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the picture without transparency, and the transparency ("L") or None.

    Knows alpha channels (premultiplied ones too), palettes with transparent entries, and a single colour that
    is declared transparent.
    """
    key = image.info.get("transparency")
    if image.mode in DEEP_MODES:
        if not isinstance(key, int):
            return image, None
        return image, Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    elif image.mode == "PA" or (key is not None and image.mode in ("1", "L", "P", "RGB")):
        image = image.convert("RGBA")
    if image.mode not in ("LA", "RGBA"):
        return image, None
    alpha = image.getchannel("A")
    # Band by band, because a plain convert() may blend or may not, depending on the mode.
    colour = image.getchannel("L") if image.mode == "LA" else Image.merge("RGB", image.split()[:3])
    return colour, alpha


def to_8bit(image: Image.Image, name: str) -> Image.Image:
    """Scale 16-bit, 32-bit and floating-point grey to 8 bit by the full range; other modes pass through.

    Raises OSEDiffError as `levels` does.
    """
    return Image.fromarray(levels(np.asarray(image), name)) if image.mode in DEEP_MODES else image


def levels(values: np.ndarray, name: str) -> np.ndarray:
    """Scale samples (H, W, ...) of any type to 8 bit, by the range of the type or the customary one.

    Raises OSEDiffError for numbers that are not finite, and for negative whole ones: no black is known.
    """
    if values.dtype == np.uint8:
        return values
    white = _checked_white(values, name)
    out = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), ROWS):
        part = values[row : row + ROWS].astype(np.float64)
        out[row : row + ROWS] = np.rint(np.clip(part / white, 0, 1) * 255)
    return out


def in_full(values: np.ndarray, name: str) -> np.ndarray:
    """Scale samples as `levels` does, but to float32 in [0, 1], with all of their bits that fit."""
    white = _checked_white(values, name)
    out = np.empty(values.shape, np.float32)
    for row in range(0, len(values), ROWS):
        out[row : row + ROWS] = np.clip(values[row : row + ROWS].astype(np.float64) / white, 0, 1)
    return out


def _checked_white(values: np.ndarray, name: str) -> float:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise OSEDiffError(f"{name} has pixels that are not finite numbers; repair it where it was made")
    if values.dtype.kind == "i" and values.min() < 0:
        raise OSEDiffError(
            f"{name} has negative pixels, and does not say which is black; save it as unsigned"
        )
    return float(_white(values, name))


def _white(values: np.ndarray, name: str) -> float:
    """Guess the value of white, which 32-bit and float files do not state: the nearest customary one."""
    if values.dtype.kind in "ui" and values.dtype.itemsize < 4:
        return np.iinfo(values.dtype).max
    highest = float(values.max())
    if values.dtype.kind in "ui":
        customary, white = 65535.0, 65535.0 if highest <= 65535 else float(np.iinfo(values.dtype).max)
    else:
        # Between 1 and 16 it is a highlight above white; a picture in 0..255 is never that dark.
        customary, white = 1.0, 1.0 if highest <= 16 else 255.0 if highest <= 255 else 65535.0
    if highest > customary:
        log.warning("%s goes up to %g; %g was taken as white", name, highest, white)
    return white


def to_srgb(image: Image.Image, meaning: bytes | Encoding | None, name: str) -> Image.Image:
    """Convert to 8-bit sRGB ("RGB"), by a profile where it is of use, or by a stated encoding."""
    if isinstance(meaning, Encoding):
        image = image.convert("RGB")
        return image if meaning.is_srgb else Image.fromarray(meaning.to_srgb(np.asarray(image)))
    if meaning:
        try:
            return _through_profile(image, meaning)
        except Exception as error:  # lcms and broken profiles raise a wide choice
            log.warning("%s: its colour profile cannot be used (%s); colours may be off", name, error)
    elif image.mode == "CMYK":
        log.warning("%s is CMYK without a colour profile; its colours are an estimate", name)
    return image.convert("RGB")


def _through_profile(image: Image.Image, profile: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    about: Any = source.profile  # Pillow's types take it for a file
    space = about.xcolor_space
    mode = PROFILE_MODES.get(space)
    if mode == "RGB" and image.mode in ("1", "L", "P", "YCbCr", "HSV"):
        image = image.convert("RGB")  # the profile is about the colours that these stand for
    elif mode == "L" and image.mode == "1":
        image = image.convert("L")
    if mode is None or mode != image.mode:
        raise ValueError(f"it is for {space.strip()}, the pixels are {image.mode}")
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=BLACK_POINT_COMPENSATION,  # type: ignore[arg-type]
    )
    if mode == "RGB" and _is_srgb(transform):
        return image
    converted = ImageCms.applyTransform(image, transform)
    if converted is None:
        raise ValueError("the conversion gave nothing")
    return converted


def _is_srgb(transform: object) -> bool:
    """Whether a transform to sRGB leaves a lattice of colours where it was."""
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)  # (1, 18**3, 3)
    image = Image.fromarray(lattice)
    moved = np.asarray(ImageCms.applyTransform(image, transform)).astype(int)  # type: ignore[arg-type]
    return int(np.abs(moved - lattice).max()) <= SAME_COLOUR


def srgb_profile() -> bytes:
    """Return the sRGB profile that is written into every file, the same bytes on every day."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # Bytes 24 to 36 of a profile are the date of its making (ICC.1, section 7.2.1): here 2000-01-01.
    content[24:36] = b"\x07\xd0\x00\x01\x00\x01\x00\x00\x00\x00\x00\x00"
    return bytes(content)

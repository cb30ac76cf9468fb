"""Pictures from and to files: the only place of the core that knows Pillow.

Inside, a picture is an 8-bit sRGB tensor (1, 3, H, W), upright, with its transparency apart; or a float one,
where more than 8 bits are asked for. What a file may be besides (turned by EXIF, in another colour space,
with a palette) ends here.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..color import from_levels, is_grey, to_levels
from ..errors import OSEDiffError
from ..transparency import fill_hidden
from ..whole_files import write_whole
from .blocks import Notes, exif_tags, save_options
from .deep import ENCODERS
from .encodings import ADOBE_GAMMA, ADOBE_PRIMARIES, Encoding
from .exif import TURNS, read_exif, resized_exif, upright, with_tags
from .files import check_target, format_of
from .formats import open_picture
from .matrix_profile import converter
from .opened import Opened, true_notes
from .pixels import in_full, split_alpha, srgb_profile, to_8bit, to_srgb

log = logging.getLogger(__name__)

WITHOUT_ALPHA = ("JPEG", "BMP")
WITHOUT_GREY = ("WEBP",)
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Picture:
    """One picture as the model takes it, and what its file said about it.

    rgb: uint8 (1, 3, H, W) in sRGB, upright; where alpha is 0, colours continued from what is visible; or
    float32 in [0, 1], if it is deep. alpha: uint8 (1, 1, H, W), or None. exif: the part of the EXIF block
    that is still true of a restored picture, or None. mode: how the file held its colours, in Pillow's words
    ("L" is grey). grey: whether it held one channel, and greys alone; those of rgb are equal then. notes:
    what else the file said that is still true. deep: whether the file holds more than 8 bits of a sample and
    was read in full; rgb is uint8 all the same where a profile of tables moved its colours, in 8 bits.
    """

    rgb: Tensor
    alpha: Tensor | None = None
    exif: bytes | None = None
    mode: str = "RGB"
    grey: bool = False
    notes: Notes = field(default_factory=Notes)
    deep: bool = False


def read_image(path: str | Path, *, full: bool = False) -> Picture:
    """Read the first frame of a picture file as 8-bit sRGB, upright.

    Colour profiles and stated encodings are converted, deeper pixels are scaled (never clipped at 255),
    transparency is split off, and what it hides of the colours goes no further. full: keep what there is of
    grey and RGB beyond 8 bits. Raises OSEDiffError, naming the file, for what is missing, empty, damaged, too
    large, no picture, or of a kind that would not come out as it is meant.
    """
    path = Path(path)
    return _read(lambda: path.open("rb"), path, full)


def decode_image(content: bytes, name: str) -> Picture:
    """Read a picture file that is in memory, as `read_image` does; `name` is what errors call it."""
    return _read(lambda: io.BytesIO(content), Path(name))


def from_pillow(image: Image.Image) -> Picture:
    """Take a picture that Pillow has opened, as `read_image` takes a file; one of 16 bits (grey) in full."""
    name = Path(getattr(image, "filename", "") or "the picture")
    full = partial(_grey_in_full, image, name.name) if image.mode.startswith("I;16") else None
    opened = Opened(image, image.info.get("icc_profile"), exif=image.getexif, full=full)
    return _guarded(lambda: _to_picture(opened, name.name, full is not None), name)


def _grey_in_full(image: Image.Image, name: str) -> np.ndarray:
    return in_full(np.asarray(image)[..., None], name)  # (H, W, 1)


def to_pillow(
    sr: Tensor, alpha: Tensor | None = None, *, grey: bool = False, deep: bool = False
) -> Image.Image:
    """Return a restored picture as `write_image` writes it to a PNG: sRGB, one channel if grey.

    It has 8 bits; deep: 16 where Pillow can hold them, which is grey without alpha.
    """
    if deep and grey and alpha is None:
        return Image.fromarray(_in_16_bits(sr[:, :1], None)[..., 0])
    return _to_image(sr[:, :1] if grey else sr, alpha, Path("the picture.png"))


def _read(opened: Callable[[], BinaryIO], path: Path, full: bool = False) -> Picture:
    """Read the first frame."""

    def read() -> Picture:
        # As an open file, not as a path: Pillow maps paths into memory, and then forgets to turn grey TIFFs.
        with opened() as file:
            if file.seek(0, io.SEEK_END) == 0:
                raise OSEDiffError(f"{path} is empty (0 bytes); copy it again from where it came")
            return _to_picture(open_picture(file, str(path), path.name), path.name, full)

    return _guarded(read, path)


def _guarded(read: Callable[[], Picture], path: Path) -> Picture:
    """Read a picture; every failure becomes one sentence."""
    try:
        return read()
    except Image.DecompressionBombError as error:
        raise OSEDiffError(f"{path} has too many pixels to be opened safely; cut it up first") from error
    except (OSEDiffError, MemoryError):
        raise
    except OSError as error:
        # errno is set where the system refused, and not where a decoder gave up.
        reason = f"cannot be opened: {error.strerror}" if error.errno else f"is damaged or cut off ({error})"
        raise OSEDiffError(f"{path} {reason}") from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise OSEDiffError(f"{path} is damaged or cut off ({error})") from error


def _to_picture(opened: Opened, name: str, full: bool = False) -> Picture:
    """Turn the pixels upright, split off transparency, and convert the colours."""
    photo = read_exif(opened.exif, name)
    notes, orientation = true_notes(opened, photo, name)
    if opened.more:
        log.warning("%s has more than one frame or page; only the first is restored", name)
    image = upright(opened.image, orientation, name)
    colour, alpha = split_alpha(image)
    adobe = Encoding(ADOBE_GAMMA, ADOBE_PRIMARIES) if photo.adobe and colour.mode == "RGB" else None
    meaning = opened.profile or opened.encoding or adobe
    eight = to_8bit(colour, name)
    srgb = to_srgb(eight, meaning, name)
    values = None if not full or opened.full is None else _in_full(opened, eight, srgb, meaning)
    if image.mode in GREY_MODES:  # a profile may move one channel a level beside the others
        srgb = srgb.convert("L").convert("RGB")
    rgb, mask = _to_tensor(srgb), None if alpha is None else _to_tensor(alpha)
    is_one = image.mode in (*GREY_MODES, "P", "PA") and bool(is_grey(rgb))
    rgb = rgb if values is None else _upright_in_full(values, orientation)
    rgb = rgb if mask is None else fill_hidden(rgb, mask)
    return Picture(rgb, mask, photo.kept, image.mode, is_one, notes, full and opened.full is not None)


def _in_full(
    opened: Opened, eight: Image.Image, srgb: Image.Image, meaning: bytes | Encoding | None
) -> np.ndarray | None:
    """Give the colours with all bits, (H, W, 1 or 3) in [0, 1]; None where a profile of tables moves them.

    eight: the colours in 8 bits before `meaning`, a profile or an encoding, made them `srgb`.
    """
    assert opened.full is not None
    if not meaning or np.array_equal(np.asarray(eight.convert("RGB")), np.asarray(srgb)):
        return opened.full()
    convert = converter(opened.profile) if opened.profile else None
    return None if convert is None else convert(opened.full())


def _upright_in_full(values: np.ndarray, orientation: object) -> Tensor:
    """Turn float32 (H, W, 1 or 3) upright, channel by channel: (1, 3, H, W)."""
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    planes = [Image.fromarray(np.ascontiguousarray(values[..., i])) for i in range(values.shape[-1])]
    turned = [np.array(plane if turn is None else plane.transpose(turn)) for plane in planes]
    return torch.from_numpy(np.stack(turned))[None].expand(-1, 3, -1, -1)


def _to_tensor(image: Image.Image) -> Tensor:
    bands = image.getbands()
    out = np.empty((1, len(bands), image.height, image.width), np.uint8)  # (1, 3 or 1, H, W)
    for i in range(len(bands)):  # one by one, so that a large picture is in memory as few times as can be
        out[0, i] = np.asarray(image.getchannel(i))
    return torch.from_numpy(out)


def write_image(
    path: str | Path,
    sr: Tensor,
    alpha: Tensor | None = None,
    exif: bytes | None = None,
    *,
    grey: bool = False,
    quality: int | None = None,
    notes: Notes | None = None,
    deep: bool = False,
) -> None:
    """Write a restored picture, tagged sRGB, in the format that the name ends in.

    sr: uint8 (1, 3, H, W), or float in [0, 1], which is rounded to 8 bit. alpha: uint8 (1, 1, H, W), laid on
    white where the format has none. exif: from `read_image`; it gets the new size. grey: that the channels
    are equal, so that one is written where the format can. quality: 1 to 100, for JPEG (else 95; chroma is
    never subsampled) and WebP (else lossless). notes: from `read_image`; written as far as the format has a
    place for them (`losses` names the rest). deep: 16 bits of each sample where the format holds them (PNG,
    TIFF). The file appears whole or not at all.
    Raises OSEDiffError for values that are not finite, and for whatever keeps the file from being written.
    """
    path = Path(path)
    height, width = sr.shape[-2:]
    check_target(path, (height, width))
    if not torch.isfinite(sr).all():
        raise OSEDiffError(f"{path} was not written: its pixels are not finite numbers; try dtype float32")
    sr = sr[:, :1] if grey and format_of(path) not in WITHOUT_GREY else sr
    encode = partial(
        _encode, path=path, size=(width, height), exif=exif, quality=quality, notes=notes or Notes()
    )
    if deep and format_of(path) in ENCODERS:
        content = ENCODERS[format_of(path)](_in_16_bits(sr, alpha), encode)
    else:
        content = encode(_to_image(sr, alpha, path))
    write_whole(path, content)


def _in_16_bits(sr: Tensor, alpha: Tensor | None) -> np.ndarray:
    """Return uint16 (H, W, 1 to 4)."""
    parts = [from_levels(part).clamp(0, 1).cpu() for part in (sr, alpha) if part is not None]
    values = [np.rint(channel.numpy() * 65535.0).astype(np.uint16) for part in parts for channel in part[0]]
    return np.stack(values, -1)


def _to_image(sr: Tensor, alpha: Tensor | None, path: Path) -> Image.Image:
    """Round to 8 bit, and put the transparency in or flatten it."""
    levels = (sr if sr.dtype == torch.uint8 else to_levels(sr.detach())).cpu()  # (1, 3 or 1, H, W)
    image = Image.fromarray(levels[0].permute(1, 2, 0).squeeze(-1).contiguous().numpy())
    if alpha is None:
        return image
    mask = Image.fromarray(alpha[0, 0].contiguous().cpu().numpy())
    if format_of(path) not in WITHOUT_ALPHA:
        image.putalpha(mask)
        return image
    if alpha.min() < 255:
        log.warning("%s cannot be transparent in this format; laid on white", path.name)
    return Image.composite(image, Image.new(image.mode, image.size, "white"), mask)


def _encode(
    image: Image.Image,
    path: Path,
    size: tuple[int, int],
    exif: bytes | None,
    quality: int | None,
    notes: Notes,
) -> bytes:
    """Return the whole file in memory, so that what goes wrong on the disk is told apart from the encoder.

    size: (width, height) of the picture, of which `image` may be but the bytes.
    """
    kind = format_of(path)
    options = save_options(notes, kind)
    if kind != "BMP":  # holds neither
        if image.mode not in ("L", "LA"):  # the profile is of colours; grey without one is taken for sRGB's
            options["icc_profile"] = srgb_profile()
        block = resized_exif(with_tags(exif, exif_tags(notes, kind)), size, path.name)
        options |= {"exif": block} if block else {}
    if kind == "JPEG":
        options |= {"quality": quality or JPEG_QUALITY, "subsampling": 0}
    elif kind == "WEBP":
        options |= {"quality": quality} if quality else {"lossless": True, "exact": True}
    # TIFF stays uncompressed: Pillow's compressed ones cannot hold the camera's part of EXIF.
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **options)
    except MemoryError:
        raise
    except Exception as error:  # encoders raise a wide choice for pictures beyond their format
        raise OSEDiffError(f"{path} could not be made a {kind} file: {error}") from error
    return buffer.getvalue()

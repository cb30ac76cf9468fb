"""TIFF: samples that Pillow decodes wrongly or not at all are read here, from what its tags say.

Plain storage (uncompressed or Deflate, one size of sample) is read here whatever it holds; the rest is left
to Pillow where its answer is right, and refused by name where it is not. Numbers are those of TIFF 6.0.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImagePalette, TiffImagePlugin, UnidentifiedImageError

from .. import limits
from ..errors import OSEDiffError
from .blocks import TIFF_IPTC, TIFF_XMP, Notes
from .exif import Bounded
from .filling import is_filled_up, warn_of_filling
from .opened import WITH_ALPHA, Full, Opened, check_size
from .pixels import in_full, levels, to_srgb

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES = 256, 257, 258, 259, 262, 266, 277
STRIPS, STRIP_ROWS, STRIP_BYTES, TILE_WIDTH, TILE_ROWS, TILES, TILE_BYTES = 273, 278, 279, 322, 323, 324, 325
ACROSS, DOWN, UNIT, PLANAR, PREDICTOR, COLOUR_MAP, EXTRA, FORMAT = 282, 283, 296, 284, 317, 320, 338, 339
SUBSAMPLING, PROFILE, INK_SET = 530, 34675, 332
LAYOUT_TAGS = {BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES, STRIPS, STRIP_ROWS, STRIP_BYTES, TILES}
LAYOUT_TAGS |= {TILE_WIDTH, TILE_ROWS, TILE_BYTES, PLANAR, PREDICTOR, COLOUR_MAP, EXTRA, FORMAT, SUBSAMPLING}
PLAIN, DEFLATE = 1, (8, 32946)
# CCITT, LZW, JPEG, PackBits and Deflate: every build of libtiff has them. WebP, LZMA, Zstandard are options.
EVERYWHERE = (PLAIN, 2, 3, 4, 5, 7, 32773, *DEFLATE)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
MODES = {WHITE_IS_ZERO: "L", BLACK_IS_ZERO: "L", RGB: "RGB", CMYK: "CMYK", YCBCR: "YCbCr"}
COLOURS = {kind: Image.getmodebands(mode) for kind, mode in MODES.items()}  # samples without the extra ones
KINDS = {
    WHITE_IS_ZERO: "grey",
    BLACK_IS_ZERO: "grey",
    RGB: "RGB",
    PALETTE: "palette",
    CMYK: "CMYK",
    YCBCR: "YCbCr",
}
KINDS |= {LAB: "Lab", 32803: "camera raw", 34892: "camera raw", 32844: "LogL", 32845: "LogLuv"}
# Modes of Pillow that have no alpha: where there is one, they go through their profile first.
CONVERTED_WITH_ALPHA = ("CMYK", "YCbCr")
TYPES = {1: "u", 2: "i", 3: "f"}
TYPE_NAMES = {"u": "unsigned", "i": "signed", "f": "floating-point"}
TYPES_READ = ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")
PREMULTIPLIED, UNASSOCIATED = 1, 2
PARTS = {STRIPS, STRIP_BYTES, TILES, TILE_BYTES}
# Bytes of a value by its type; those of one byte are kept as they are, the others become numbers.
VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
# Pixels by which a tile may be larger than the picture that it belongs to.
LARGEST_MARGIN = 1 << 22
REMEDY = "save it as 8- or 16-bit RGB or grey, uncompressed"
INCHES = {2: 1.0, 3: 2.54}  # units of resolution: the inch, the centimetre


@dataclass(frozen=True)
class Layout:
    """How the samples of a picture lie in the file. type: as NumPy writes it, without the order of bytes."""

    width: int
    height: int
    photometric: int
    bits: int
    type: str
    samples: int
    planar: bool
    compression: int
    predictor: int
    extra: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """The type of a sample as NumPy writes it, such as "u2"."""
        return f"{self.type}{self.bits // 8}" if self.bits % 8 == 0 else ""

    @property
    def bytes_of_pixel(self) -> int:
        """What a pixel takes while it is read."""
        stored = self.samples * -(-self.bits // 8)
        return stored + WITH_ALPHA if set(self.extra) & {PREMULTIPLIED, UNASSOCIATED} else stored

    def __str__(self) -> str:
        """In words, for errors."""
        kind = KINDS.get(self.photometric, f"photometric {self.photometric}")
        planes = "in planes" if self.planar else "interleaved"
        packed = "uncompressed" if self.compression == PLAIN else f"compression {self.compression}"
        samples = f"{self.samples} {self.bits}-bit {TYPE_NAMES[self.type]} samples"
        return f"{kind} in {samples}, {planes}, {packed}"


def read_tiff(file: BinaryIO, path: str, name: str) -> Opened:
    """Decode the first page of a TIFF. path, name: what errors and warnings call it.

    Raises OSEDiffError for layouts that cannot be read, for damage, and for values without a known black.
    """
    tags = _tags(file, path)
    layout = _layout(tags, path)
    check_size((layout.width, layout.height), file, path, layout.bytes_of_pixel)
    ours = _is_ours(layout, tags)
    if ours:
        samples = _samples(file, tags, layout, path)
        if layout.compression == PLAIN and layout.photometric != WHITE_IS_ZERO and not layout.extra:
            warn_of_filling(samples, name)
        image, full = _to_image(samples, layout, _bytes(tags, PROFILE), name)
    else:
        image, full = _by_pillow(file, tags, layout, path, name)
    consumed = image.mode == "RGBA" and MODES.get(layout.photometric) in CONVERTED_WITH_ALPHA
    return Opened(
        image,
        profile=None if consumed else _bytes(tags, PROFILE),
        exif=partial(_exif, file),
        xmp=_bytes(tags, TIFF_XMP),
        turned=not ours,
        more=tags.next != 0,
        full=full,
        notes=Notes(dpi=_dpi(tags), iptc=_bytes(tags, TIFF_IPTC)),
    )


def _start(file: BinaryIO) -> tuple[bytes, int]:
    """Return the head of the file, and where its first directory lies. BigTIFF (43) has the longer head."""
    file.seek(0)
    head = file.read(8)
    order = "<" if head[:2] == b"II" else ">"
    if 43 in head[2:4]:
        head += file.read(8)
        return head, struct.unpack(f"{order}Q", head[8:])[0]
    return head, struct.unpack(f"{order}I", head[4:])[0]


def _tags(file: BinaryIO, path: str) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Read the first directory. Raises OSEDiffError where it is not whole, as in a broken copy."""
    head, at = _start(file)
    big, order = len(head) == 16, "<" if head[:2] == b"II" else ">"
    file.seek(at)
    count = int.from_bytes(file.read(8 if big else 2), "little" if order == "<" else "big")
    entries = struct.Struct(f"{order}HHQ8x" if big else f"{order}HHI4x")  # tag, type, count, value or place
    content = file.read(entries.size * min(count, limits.TIFF_TAGS))
    whole = content[: len(content) // entries.size * entries.size]
    stated = list(entries.iter_unpack(whole))
    _check_values(stated, file.seek(0, io.SEEK_END), path)
    there = {number for number, _, _ in stated}
    tags = TiffImagePlugin.ImageFileDirectory_v2(head)
    if len(content) == entries.size * count:
        file.seek(at)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it leaves out what is missing, which is looked for below
            tags.load(file)
    if not {WIDTH, HEIGHT} | (there & LAYOUT_TAGS) <= set(tags) or 0 in tags.get(BITS, ()):
        raise OSEDiffError(
            f"{path} is cut off or damaged: what says how its pixels are stored is not whole; copy it again"
        )
    return tags


def _check_values(stated: Iterable[tuple[int, int, int]], length: int, path: str) -> None:
    """Raise OSEDiffError for entries (tag, type, count) whose values would take too much to read.

    length: bytes of the file. What is longer than it is damage, and is passed over.
    """
    taken = parts = numbers = 0
    for tag, kind, count in stated:
        size = VALUE_BYTES.get(kind, 0) * count
        if not 0 < size <= length:
            continue
        taken += size
        if tag in PARTS:
            parts = max(parts, count)
        elif VALUE_BYTES[kind] > 1:
            numbers += count
    if taken > limits.SHARING * length or parts > limits.TIFF_PARTS or numbers > limits.TIFF_NUMBERS:
        raise OSEDiffError(
            f"{path} holds too much beside its pixels ({taken:,} bytes in tags, {parts:,} parts) to be read "
            "safely; save it as TIFF again"
        )


def _exif(file: BinaryIO) -> Image.Exif:
    head, at = _start(file)
    exif = Image.Exif()
    exif.bigtiff, exif.endian = len(head) == 16, "<" if head[:2] == b"II" else ">"
    file.seek(0)
    exif.load_from_fp(file, at)
    exif.fp = Bounded(file)  # type: ignore[assignment]  # the blocks of camera and place
    return exif


def _layout(tags: Mapping[int, Any], path: str) -> Layout:
    """Read how the samples lie. Raises OSEDiffError where they are not of one kind."""
    samples = int(tags.get(SAMPLES, 1))
    bits, formats = set(tags.get(BITS, (1,))), set(tags.get(FORMAT, (1,)))
    if len(bits) != 1 or len(formats) != 1:
        raise OSEDiffError(f"{path} is a TIFF whose samples are of different sizes or types; {REMEDY}")
    return Layout(
        width=int(tags[WIDTH]),
        height=int(tags[HEIGHT]),
        photometric=int(tags.get(PHOTOMETRIC, WHITE_IS_ZERO)),
        bits=bits.pop(),
        type=TYPES.get(formats.pop(), "u"),
        samples=samples,
        planar=tags.get(PLANAR, 1) == 2 and samples > 1,
        compression=int(tags.get(COMPRESSION, PLAIN)),
        predictor=int(tags.get(PREDICTOR, 1)),
        extra=tuple(tags.get(EXTRA, ())),
    )


def _is_ours(layout: Layout, tags: Mapping[int, Any]) -> bool:
    plain = layout.compression == PLAIN or layout.compression in DEFLATE
    predicted = layout.predictor == 1 or (
        layout.compression in DEFLATE
        and (layout.predictor == 2 or (layout.predictor == 3 and layout.type == "f"))
    )
    whole = layout.dtype in TYPES_READ and layout.samples >= COLOURS.get(
        layout.photometric, layout.samples + 1
    )
    even = layout.photometric != YCBCR or tuple(tags.get(SUBSAMPLING, (2, 2))) == (1, 1)
    return plain and predicted and whole and even and tags.get(FILL_ORDER, 1) == 1 and _ink(layout, tags)


def _ink(layout: Layout, tags: Mapping[int, Any]) -> bool:
    """Whether inks are cyan, magenta, yellow and black, where there are any."""
    return layout.photometric != CMYK or tags.get(INK_SET, 1) == 1


def _samples(file: BinaryIO, tags: Mapping[int, Any], layout: Layout, path: str) -> np.ndarray:
    """Read all samples, (H, W, samples), in the machine's order of bytes."""
    tiled = TILES in tags
    offsets = tags[TILES if tiled else STRIPS]
    counts = tags.get(TILE_BYTES if tiled else STRIP_BYTES, (0,) * len(offsets))
    across = int(tags[TILE_WIDTH]) if tiled else layout.width
    down = int(tags[TILE_ROWS]) if tiled else min(int(tags.get(STRIP_ROWS, layout.height)), layout.height)
    if min(across, down) < 1 or across * down > layout.width * layout.height + LARGEST_MARGIN:
        raise OSEDiffError(f"{path} is damaged: its parts are {across}x{down} pixels; copy it again")
    deep = 1 if layout.planar else layout.samples  # samples of a pixel in one part
    count = layout.samples // deep * -(-layout.height // down) * -(-layout.width // across)
    if min(len(offsets), len(counts)) < count:
        raise OSEDiffError(
            f"{path} is damaged: {count} parts of pixels, {len(offsets)} places; copy it again"
        )
    if layout.compression in DEFLATE and sum(counts) > limits.SHARING * file.seek(0, io.SEEK_END):
        raise OSEDiffError(f"{path} is damaged: its parts are longer than the file; copy it again")
    places = (
        (plane, y, x)
        for plane in range(layout.samples // deep)
        for y in range(0, layout.height, down)
        for x in range(0, layout.width, across)
    )
    out = np.empty((layout.height, layout.width, layout.samples), layout.dtype)
    for (plane, y, x), offset, size in zip(places, offsets, counts, strict=False):
        rows = down if tiled else min(down, layout.height - y)
        file.seek(offset)
        part = _part(file, size, (rows, across, deep), tags.prefix, layout, path)  # type: ignore[attr-defined]
        target = out[y : y + rows, x : x + across, plane * deep : (plane + 1) * deep]
        target[:] = part[: target.shape[0], : target.shape[1]]
    return out


def _part(
    file: BinaryIO, count: int, shape: tuple[int, int, int], order: bytes, layout: Layout, path: str
) -> np.ndarray:
    """Read a strip or a tile, (rows, columns, samples), from where the file stands."""
    wanted = shape[0] * shape[1] * shape[2] * layout.bits // 8
    if layout.compression == PLAIN:
        content = file.read(min(count or wanted, wanted))  # some old software left the counts out
    else:
        content = zlib.decompressobj().decompress(file.read(count), wanted)
    if len(content) < wanted:
        raise OSEDiffError(
            f"{path} is cut off: {wanted - len(content)} bytes of pixels are missing; copy it again"
        )
    size = layout.bits // 8
    if layout.predictor == 3:  # bytes of a row, the highest of every sample first, as differences
        apart = np.frombuffer(content, np.uint8).reshape(shape[0], shape[1] * size, shape[2])
        bytes_ = np.cumsum(apart, axis=1, dtype=np.uint8).reshape(shape[0], size, shape[1] * shape[2])
        return np.ascontiguousarray(bytes_.transpose(0, 2, 1)).view(f">f{size}").reshape(shape)
    unsigned = np.frombuffer(content, f"{'<' if order == b'II' else '>'}u{size}").reshape(shape)
    unsigned = unsigned.astype(f"u{size}")
    if layout.predictor == 2:
        unsigned = np.cumsum(unsigned, axis=1, dtype=unsigned.dtype)
    return unsigned.view(layout.dtype)


def _full(colour: np.ndarray, layout: Layout, name: str) -> Full | None:
    """Return what gives grey or RGB samples of more than 8 bits in full."""
    if colour.dtype.itemsize == 1 or layout.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
        return None
    negative = layout.photometric == WHITE_IS_ZERO
    return lambda: 1 - in_full(colour, name) if negative else in_full(colour, name)


def _to_image(
    values: np.ndarray, layout: Layout, profile: bytes | None, name: str
) -> tuple[Image.Image, Full | None]:
    """Bring samples (H, W, samples) to 8 bit, with alpha where a sample is one; and tell them in full."""
    colours = COLOURS[layout.photometric]
    extra = layout.extra or ((UNASSOCIATED,) if layout.photometric == RGB and layout.samples == 4 else ())
    kind = next((kind for kind in extra if kind in (PREMULTIPLIED, UNASSOCIATED)), None)
    at = colours + extra.index(kind) if kind is not None else layout.samples
    colour, alpha = values[..., :colours], values[..., at : at + 1]  # (H, W, colours), (H, W, 1 or 0)
    if kind == PREMULTIPLIED and alpha.size:  # divided with all of their bits
        colour = np.divide(
            colour, alpha, np.zeros(colour.shape, np.float32), where=alpha > 0, casting="unsafe"
        )
        colour = colour.clip(0, 1)
    shown = levels(colour, name)
    if layout.photometric == WHITE_IS_ZERO:
        shown = 255 - shown
    mode = MODES[layout.photometric]
    image = Image.frombytes(mode, (layout.width, layout.height), shown.tobytes())
    full = _full(colour, layout, name)
    if not alpha.size:
        return image, full
    image = to_srgb(image, profile, name) if mode in CONVERTED_WITH_ALPHA else image
    image.putalpha(Image.fromarray(levels(alpha[..., 0], name)))
    return image, full


def _by_pillow(
    file: BinaryIO, tags: Mapping[int, Any], layout: Layout, path: str, name: str
) -> tuple[Image.Image, Full | None]:
    """Let Pillow decode what it decodes rightly. Raises OSEDiffError for all else."""
    if not _is_pillows(layout, tags):
        raise OSEDiffError(f"{path} is a TIFF that cannot be read ({layout}); {REMEDY}")
    file.seek(0)
    try:
        with Image.open(file, formats=("TIFF",)) as image:
            image.load()
    except UnidentifiedImageError as error:
        raise OSEDiffError(f"{path} is a TIFF that cannot be read ({layout}); {REMEDY}") from error
    except OSError as error:
        if layout.compression in EVERYWHERE:
            raise
        raise OSEDiffError(  # the decoder gives one number for both
            f"{path} is a TIFF that is damaged, or that Pillow was built here without being able to read "
            f"({layout}); {REMEDY}"
        ) from error
    file.seek(0)
    if layout.compression != PLAIN and is_filled_up(file.read(), "TIFF", image):
        raise OSEDiffError(f"{path} is cut off: it ends in zeros that are no pixels; copy it again")
    if (
        layout.photometric == PALETTE and max(tags[COLOUR_MAP]) < 256
    ):  # 8-bit palettes, which TIFF does not have
        image.palette = ImagePalette.raw("RGB;L", bytes(tags[COLOUR_MAP]))
        image.load()
    if not image.mode.startswith(("I", "F")):
        return image, None
    values = np.asarray(image)
    values = values << (16 - layout.bits) if layout.bits < 16 else values
    shown = levels(values, name)
    shown = 255 - shown if layout.photometric == WHITE_IS_ZERO else shown
    return Image.fromarray(shown), _full(values[..., None], layout, name)


def _is_pillows(layout: Layout, tags: Mapping[int, Any]) -> bool:
    """Whether Pillow, where it decodes this layout at all, decodes it as the tags say."""
    if not _ink(layout, tags) or layout.type == "i":
        return False
    if layout.type == "f":  # it takes one order of bytes for the other, and knows no white that is zero
        return layout.bits == 32 and layout.photometric == BLACK_IS_ZERO and tags.prefix == b"II"  # type: ignore[attr-defined]
    if layout.bits > 16:
        return False
    if layout.photometric in (YCBCR, LAB):
        return not layout.planar and not (layout.photometric == YCBCR and layout.compression == PLAIN)
    return not (layout.planar and layout.compression == PLAIN and layout.bits != 8)


def _dpi(tags: Mapping[int, Any]) -> tuple[float, float] | None:
    across, down, inches = tags.get(ACROSS), tags.get(DOWN), INCHES.get(tags.get(UNIT, 2))
    if not across or not down or inches is None:
        return None
    return float(across) * inches, float(down) * inches


def _bytes(tags: Mapping[int, Any], tag: int) -> bytes | None:
    """Return the value of a tag that holds a block of bytes, whatever its type.

    None for none or too long a one.
    """
    value = tags.get(tag)
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, tuple) and all(isinstance(v, int) and 0 <= v < 2**32 for v in value):
        value = struct.pack(f"<{len(value)}I", *value)  # old software said that IPTC were whole numbers
    return value if isinstance(value, bytes) and 0 < len(value) <= limits.BLOCK_BYTES else None

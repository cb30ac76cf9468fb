"""Fuzz the readers of pictures, and the writers with what was read: what a file says ends in another file."""

import io
import struct
import warnings
import zlib
from pathlib import Path

from target import refusable, run, watched

with watched():
    from osediff_core.errors import OSEDiffError
    from osediff_core.pictures.images import Picture, read_image, write_image

ENDINGS = (".png", ".jpg", ".webp", ".tif", ".bmp")  # one for each format
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
LARGEST_WRITTEN = 64 * 64  # pixels: encoders are slow, and it is what lies beside the pixels that matters


def read(path: Path) -> None:
    """Read a file as it is, and a PNG with the checksums that its chunks have."""
    refusable(lambda: read_and_write(path))
    content = path.read_bytes()
    if content.startswith(PNG_SIGNATURE):
        mended = path.with_name("mended.png")
        mended.write_bytes(with_checksums(content))
        read_and_write(mended)


def read_and_write(path: Path) -> None:
    """Read a picture; what is read can be written in every format, and read again."""
    picture = read_image(path)
    rgb, alpha = picture.rgb, picture.alpha
    assert rgb.ndim == 4
    assert rgb.shape[:2] == (1, 3)
    assert alpha is None or alpha.shape == (1, 1, *rgb.shape[2:])
    if rgb[0, 0].numel() <= LARGEST_WRITTEN:
        for ending in ENDINGS:
            write_and_read(picture, path.with_name(f"out{ending}"))


def write_and_read(picture: Picture, place: Path) -> None:
    """Write a picture and read the result: what was read may be the fault of no failure of either."""
    try:
        write_image(place, picture.rgb, picture.alpha, picture.exif, grey=picture.grey, notes=picture.notes)
        again = read_image(place)
    except OSEDiffError as error:
        raise AssertionError(f"a picture that was read cannot be written: {error}") from error
    assert again.rgb.shape == picture.rgb.shape, place.suffix


def with_checksums(content: bytes) -> bytes:
    """Put the right checksum to every chunk of a PNG, as far as its chunks can be followed."""
    parts, at = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while at + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        body = content[at + 8 : at + 8 + length]
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
        at += 12 + length
    return b"".join(parts)


# What Pillow writes: a mode and a format, and the options that make another kind of file of it.
BY_PILLOW: list[tuple[str, str, dict[str, object]]] = [
    *((mode, "PNG", {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *((mode, "JPEG", {}) for mode in ("L", "RGB", "CMYK")),
    ("RGB", "JPEG", {"progressive": True, "comment": b"said"}),
    ("RGB", "JPEG", {"restart_marker_blocks": 1, "subsampling": 2}),
    *(("RGBA", "WEBP", {"lossless": lossless}) for lossless in (False, True)),
    *((mode, "TIFF", {}) for mode in ("1", "L", "P", "RGB", "CMYK", "LAB", "I;16", "F")),
    *(("RGB", "TIFF", {"compression": name}) for name in ("tiff_lzw", "jpeg", "packbits", "tiff_deflate")),
    ("1", "TIFF", {"compression": "group4"}),
    *((mode, "BMP", {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
    ("P", "GIF", {"comment": b"said", "transparency": 0}),
    *((mode, "JPEG2000", {}) for mode in ("L", "RGB", "RGBA")),
    ("RGBA", "AVIF", {}),
]


def seeds() -> list[bytes]:
    """Return a small picture of each kind, with and without what may lie beside the pixels."""
    return [*by_pillow(), *pngs(), *tiffs()]


def by_pillow() -> list[bytes]:
    """Return pictures of all that Pillow writes; those of colours with a profile, EXIF and XMP, too."""
    from PIL import Image

    from osediff_core.pictures.pixels import srgb_profile

    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "maker", 300.0
    exif[0x8769], exif[0x8825] = {0x829A: 0.5, 0x9286: b"ASCII\0\0\0said"}, {1: "N"}
    beside = {"exif": exif.tobytes(), "icc_profile": srgb_profile(), "dpi": (300, 300), "xmp": XMP}
    found = []
    for mode, kind, options in BY_PILLOW:
        image = (
            Image.linear_gradient("L").resize((9, 7)).convert(mode if mode not in ("I;16", "LAB") else "RGB")
        )
        if mode == "I;16":
            image = Image.frombytes("I;16", (9, 7), bytes(range(126)))
        elif mode == "LAB":
            image = Image.frombytes("LAB", (9, 7), bytes(range(189)))
        for more in ({}, beside) if mode in ("RGB", "RGBA") and "compression" not in options else ({},):
            file = io.BytesIO()
            try:
                image.save(file, kind, **options, **more)
            except (KeyError, OSError):  # a build of Pillow without this codec
                continue
            found.append(file.getvalue())
    return found


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" tiff:Make="it"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


def pngs() -> list[bytes]:
    """Return PNGs of each number of channels and depth, with a chunk of every kind that is read."""
    import numpy as np

    from tests.unit.png_chunks import chunk, png

    before = (
        chunk(b"gAMA", struct.pack(">I", 100000)),
        chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),
        chunk(b"cICP", bytes([12, 13, 0, 1])),
        chunk(b"sRGB", b"\0") + chunk(b"pHYs", struct.pack(">IIB", 11811, 11811, 1)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP) + chunk(b"tEXt", b"Comment\0said"),
        chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"said")) + chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0"),
        chunk(b"iTXt", b"key\0\1\0en\0\0" + zlib.compress(b"said")) + chunk(b"acTL", bytes(7) + b"\2"),
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n8\n49492a0008000000\n"),
    )
    found = []
    for i, said in enumerate(before):
        channels, dtype = i % 4 + 1, (np.uint8, np.uint16)[i // 4]
        pixels = np.arange(35 * channels, dtype=dtype).reshape(5, 7, channels)
        found.append(png(pixels, said))
    return [*found, png(np.zeros((5, 7, 3), np.uint16), chunk(b"tRNS", bytes(6)))]


def tiffs() -> list[bytes]:
    """Return TIFFs of the layouts that are read by the core itself."""
    import numpy as np

    from tests.unit.tiff_tags import stored

    def samples(channels: int, dtype: str) -> np.ndarray:
        return (np.arange(35 * channels) % 100).astype(dtype).reshape(5, 7, channels)

    return [
        stored(samples(3, "u2"), "RGB", planar=True),
        stored(samples(4, "u2"), "RGB", ">", deflate=True, predictor=2, extra=(1,)),
        stored(samples(3, "f4"), "RGB", deflate=True, predictor=3),
        stored(samples(1, "f8"), "grey", ">"),
        stored(samples(1, "i4"), "white is zero", tile=(16, 16)),
        stored(samples(5, "u1"), "CMYK", extra=(2,)),
    ]


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Pillow's, of what is damaged
    run(read, seeds(), "x.png")

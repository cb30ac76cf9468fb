"""Small pictures that would fill memory or take for ever: refused, or read without what is too long."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from osediff_core import limits
from osediff_core.errors import OSEDiffError
from osediff_core.pictures.exif import Bounded
from osediff_core.pictures.images import decode_image, read_image

from .png_chunks import chunk, png
from .tiff_tags import tiff

PIXELS = np.arange(105, dtype=np.uint8).reshape(5, 7, 3)


def test_exif_that_is_too_long_is_left_out(caplog):
    many = limits.EXIF_BYTES // 8 + 1
    block = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x011A, 5, many, 26) + bytes(8 * many)
    picture = decode_image(png(PIXELS, chunk(b"eXIf", block)), "a.png")
    assert (picture.rgb[0].permute(1, 2, 0).numpy() == PIXELS).all()
    assert picture.exif is None
    assert "longer than 1 MiB" in caplog.text


def test_exif_is_bounded_by_what_is_read_and_not_by_where_it_lies():
    file = Bounded(io.BytesIO(bytes(limits.EXIF_BYTES)))
    assert len(file.read(limits.EXIF_BYTES // 2)) == limits.EXIF_BYTES // 2
    file.seek(0)
    assert len(file.read(limits.EXIF_BYTES // 2)) == limits.EXIF_BYTES // 2
    file.seek(0)
    with pytest.raises(ValueError, match="longer than"):
        file.read(1)


def test_many_faults_of_an_exif_block_are_one_warning(caplog, recwarn):
    """Each value is said to be longer than what follows it."""
    body = b"".join(struct.pack("<HHII", tag, 2, 100_000, 8) for tag in range(0x0100, 0x0200))
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", 0x0100) + body
    assert decode_image(png(PIXELS, chunk(b"eXIf", block)), "a.png").rgb.shape == (1, 3, 5, 7)
    assert len(recwarn) == 0
    assert len(caplog.records) == 1
    assert "its EXIF block is damaged" in caplog.text


def grey(width, height, *tags, parts=(b"\0",), compression=1):
    """A grey 8-bit TIFF of these parts, with further tags (number, type, values)."""
    own = [(256, 4, [width]), (257, 4, [height]), (258, 3, [8]), (259, 3, [compression]), (262, 3, [1])]
    return tiff([*own, (277, 3, [1]), *tags], list(parts))


def test_a_tiff_whose_camera_block_is_too_long(caplog):
    many = limits.EXIF_BYTES // 8 + 1
    end = len(grey(2, 2, (0x8769, 4, [0]), parts=[b"\1\2\3\4"]))
    content = grey(2, 2, (0x8769, 4, [end]), parts=[b"\1\2\3\4"])
    content += struct.pack("<HHHII4x", 1, 0x829A, 5, many, end) + bytes(8 * many)
    assert decode_image(content, "a.tif").rgb[0, 0].flatten().tolist() == [1, 2, 3, 4]
    assert "longer than 1 MiB" in caplog.text


def hostile_tiffs():
    """TIFFs, and words of the sentence that refuses each."""
    nothing = zlib.compress(bytes(7))
    same = [(tag, 7, [0] * 8) for tag in range(60_001, 60_021)]
    shared = grey(7, 1, *same, parts=[bytes(1000)])
    for tag, _, _ in same:  # each is the whole file now
        shared = shared.replace(
            struct.pack("<HHI", tag, 7, 8), struct.pack("<HHI", tag, 7, len(shared) - 600)
        )
    strips = [nothing] * 50
    long = grey(7, 50, (278, 3, [1]), parts=strips, compression=8)
    lengths = struct.pack("<50I", *map(len, strips))
    assert lengths in long
    return {
        "one tile for millions": (grey(5700, 5700, (322, 3, [1]), (323, 3, [1])), "32490000 parts"),
        "tiles of a pixel": (grey(600, 600, (322, 3, [1]), (323, 3, [1]), parts=[b"\0"] * 360_000), "safely"),
        "strips as long as the file": (
            long.replace(lengths, struct.pack("<50I", *[len(long)] * 50)),
            "longer",
        ),
        "fractions": (grey(7, 1, (282, 5, [1] * 2 * (limits.TIFF_NUMBERS + 1)), parts=[bytes(7)]), "safely"),
        "the same bytes in all tags": (shared, "safely"),
    }


@pytest.mark.parametrize("how", list(hostile_tiffs()))
def test_a_tiff_that_would_take_too_much(tmp_path, how):
    content, words = hostile_tiffs()[how]
    (tmp_path / "a.tif").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(OSEDiffError, match=words):
            read_image(tmp_path / "a.tif")
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


def scanned(passes):
    """A progressive JPEG whose last pass comes so many times; later ones change nothing that is seen."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", progressive=True)
    content = file.getvalue()[:-2]
    last = content[content.rindex(b"\xff\xda") :]
    return content + last * passes + b"\xff\xd9"


def test_passes_of_a_jpeg():
    assert decode_image(scanned(10), "a.jpg").rgb.shape == (1, 3, 5, 7)
    with pytest.raises(OSEDiffError, match=r"more than 100 times"):
        decode_image(scanned(limits.SCANS), "a.jpg")

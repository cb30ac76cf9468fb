"""Copies that were broken off, and filled up with zeros, are seen as that; whole pictures never are."""

import io
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import decode_image

SOFT = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).resize((181, 130), 3)
CODED = {
    "lossy.webp": ("WEBP", {}),
    "lossless.webp": ("WEBP", {"lossless": True}),
    "quick.webp": ("WEBP", {"lossless": True, "method": 0}),
    "a.gif": ("GIF", {}),
    "a.jp2": ("JPEG2000", {}),
    "a.jpg": ("JPEG", {}),
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "a.png": ("PNG", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "deflate.tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "jpeg.tif": ("TIFF", {"compression": "jpeg"}),
}
if find_spec("PIL._avif") is not None:  # from Pillow 11.3 on
    CODED["a.avif"] = ("AVIF", {})


def encoded(image, kind, options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("share", [0.3, 0.55, 0.9])
@pytest.mark.parametrize("fill", [False, True], ids=["cut", "filled"])
@pytest.mark.parametrize("name", CODED)
def test_a_broken_copy_is_refused(name, fill, share):
    content = encoded(SOFT, *CODED[name])
    at = int(len(content) * share)
    with pytest.raises(OSEDiffError, match=r"cut off|damaged"):
        decode_image(content[:at] + bytes(len(content) - at) * fill, name)


@pytest.mark.parametrize("name", CODED)
def test_flat_pictures_and_padded_files_are_whole(name, caplog):
    kind, options = CODED[name]
    half = Image.new("RGB", (800, 700))
    half.paste(SOFT, (0, 0))
    for image in (SOFT, half, Image.new("RGB", (900, 700)), Image.new("RGB", (900, 700), "white")):
        decode_image(encoded(image, kind, options), name)
    if kind not in ("TIFF", "JPEG2000"):
        decode_image(encoded(SOFT, kind, options) + bytes(5000), name)
    assert not caplog.records


@pytest.mark.parametrize("name", ["a.bmp", "a.tif"])
def test_stored_pixels_that_end_in_zeros_are_doubtful(name, caplog):
    kind = {"a.bmp": "BMP", "a.tif": "TIFF"}[name]
    content = encoded(SOFT, kind, {})
    decode_image(content, name)
    border = np.asarray(SOFT).copy()
    border[:30] = border[-30:] = 0
    decode_image(encoded(Image.fromarray(border), kind, {}), name)
    decode_image(encoded(Image.new("RGB", (90, 70)), kind, {}), name)
    assert not caplog.records
    decode_image(content[:-30001] + bytes(30001), name)
    assert "broken off" in caplog.text
    with pytest.raises(OSEDiffError, match="cut off"):
        decode_image(content[:-30001], name)


@pytest.mark.parametrize("missing", [1, 3, 20, 100])
def test_a_tiff_whose_directory_is_cut_says_so(missing):
    content = encoded(SOFT, "TIFF", {"compression": "tiff_lzw"})  # its directory comes last
    with pytest.raises(OSEDiffError, match="cut off"):
        decode_image(content[:-missing], "a.tif")

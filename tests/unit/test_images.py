"""Reading pictures: every kind of file becomes upright 8-bit sRGB, or one sentence that names it."""

from __future__ import annotations

import logging
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import read_image

RAMP = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], -1)


def rgb_of(path):
    """The picture as (H, W, 3), to compare with arrays."""
    picture = read_image(path)
    assert picture.rgb.dtype == torch.uint8
    assert picture.rgb.shape[:2] == (1, 3)
    return picture.rgb[0].permute(1, 2, 0).numpy()


def alpha_of(path):
    alpha = read_image(path).alpha
    return None if alpha is None else alpha[0, 0].numpy()


def save(tmp_path, array_or_image, name, **options):
    image = array_or_image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(tmp_path / name, **options)
    return tmp_path / name


def png16(array, colour_type, *chunks):
    """A 16-bit PNG by hand, because Pillow writes only grey ones."""
    height, width = array.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return out


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.webp", "a.jpg"])
def test_colour_of_every_format(tmp_path, name):
    options = {"a.webp": {"lossless": True}, "a.jpg": {"quality": 100, "subsampling": 0}}.get(name, {})
    got = rgb_of(save(tmp_path, COLOURS, name, **options))
    assert np.abs(got.astype(int) - COLOURS).max() <= (3 if name == "a.jpg" else 0)
    assert alpha_of(tmp_path / name) is None


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_grey_and_one_bit(tmp_path, name):
    assert (rgb_of(save(tmp_path, RAMP, name)) == RAMP[..., None]).all()
    bits = Image.fromarray(RAMP > 100)
    assert (rgb_of(save(tmp_path, bits, name)) == np.where(RAMP > 100, 255, 0)[..., None]).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_alpha_is_apart_and_colours_under_it_are_not_blended(tmp_path, name):
    image = np.dstack([COLOURS, RAMP])
    options = {"lossless": True, "exact": True} if name == "a.webp" else {}
    path = save(tmp_path, image, name, **options)
    assert (rgb_of(path) == COLOURS)[RAMP > 0].all()
    assert (alpha_of(path) == RAMP).all()


def test_grey_with_alpha(tmp_path):
    path = save(
        tmp_path, Image.merge("LA", [Image.fromarray(RAMP), Image.fromarray(RAMP[::-1].copy())]), "a.png"
    )
    assert (rgb_of(path) == RAMP[..., None])[RAMP[::-1] > 0].all()
    assert (alpha_of(path) == RAMP[::-1]).all()


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.fromarray(np.repeat([[0, 1, 2]], 4, 0).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    want = np.repeat([[[10, 20, 30], [40, 50, 60], [70, 80, 90]]], 4, 0)
    for name in ("a.png", "a.gif", "a.bmp", "a.tif"):
        assert (rgb_of(save(tmp_path, image, name)) == want).all()
        assert alpha_of(tmp_path / name) is None
    steps = save(tmp_path, image, "steps.png", transparency=bytes([0, 128, 255]))
    assert (rgb_of(steps) == want)[:, 1:].all()
    assert alpha_of(steps)[0].tolist() == [0, 128, 255]
    assert alpha_of(save(tmp_path, image, "one.gif", transparency=1))[0].tolist() == [255, 0, 255]


@pytest.mark.parametrize(
    ("array", "key"), [(RAMP, int(RAMP[3, 4])), (COLOURS, tuple(map(int, COLOURS[3, 4])))]
)
def test_one_transparent_colour(tmp_path, array, key):
    alpha = alpha_of(save(tmp_path, array, "a.png", transparency=key))
    assert alpha[3, 4] == 0
    assert (alpha == 0).sum() == 1


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, name):
    values = np.array([[0, 128, 129, 257, 32768, 65535, 40000, 256]], np.uint16)
    got = rgb_of(save(tmp_path, values, name))[..., 0]
    assert got.tolist() == [[0, 0, 1, 1, 128, 255, 156, 1]]


def test_16_bit_grey_with_a_transparent_level(tmp_path):
    (tmp_path / "a.png").write_bytes(png16(np.array([[300, 301]]), 0, (b"tRNS", struct.pack(">H", 301))))
    assert alpha_of(tmp_path / "a.png").tolist() == [[255, 0]]


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour(tmp_path, kind, channels):
    values = np.random.default_rng(0).integers(300, 65536, (4, 5, channels))  # nothing is hidden
    (tmp_path / "a.png").write_bytes(png16(values, kind))
    colour = values[..., : channels - (channels % 2 == 0)]
    assert np.abs(rgb_of(tmp_path / "a.png") - colour / 257).max() <= 1
    if channels % 2 == 0:
        assert np.abs(alpha_of(tmp_path / "a.png") - values[..., -1] / 257).max() <= 1


@pytest.mark.parametrize(
    ("values", "want", "says"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255], False),
        ([-0.5, 0.5, 4.0], [0, 128, 255], True),
        ([0.0, 51.0, 255.0], [0, 51, 255], True),
        ([0.0, 257.0, 65535.0], [0, 1, 255], True),
    ],
)
def test_floating_point_grey(tmp_path, caplog, values, want, says):
    path = save(tmp_path, np.array([values], np.float32), "a.tif")
    assert rgb_of(path)[0, :, 0].tolist() == want
    assert ("a.tif" in caplog.text) == says


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floating_point_that_is_not_finite(tmp_path, value):
    path = save(tmp_path, np.array([[0.5, value]], np.float32), "a.tif")
    with pytest.raises(OSEDiffError, match=r"a\.tif.*not finite"):
        read_image(path)


def test_32_bit_grey(tmp_path, caplog):
    assert rgb_of(save(tmp_path, np.array([[0, 65535]], np.int32), "a.tif"))[0, :, 0].tolist() == [0, 255]
    assert caplog.text == ""
    assert rgb_of(save(tmp_path, np.array([[0, 2**31 - 1]], np.int32), "a.tif"))[0, :, 0].tolist() == [0, 255]
    assert "taken as white" in caplog.text


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_first_frame_of_many(tmp_path, caplog, name):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(
        tmp_path / name,
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if "webp" in name else {}),
    )
    assert rgb_of(tmp_path / name)[0, 0].tolist() == [255, 0, 0]
    assert f"{name} has more than one frame" in caplog.text


@pytest.mark.parametrize("size", [(1, 1), (4000, 1), (1, 4000)])
def test_extreme_sizes(tmp_path, size):
    assert read_image(save(tmp_path, Image.new("RGB", size, "red"), "a.png")).rgb.shape[2:] == size[::-1]


def test_cmyk_without_a_profile_says_that_it_is_an_estimate(tmp_path, caplog):
    path = save(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg", quality=100)
    assert np.abs(rgb_of(path)[0, 0].astype(int) - [255, 0, 0]).max() <= 6
    assert "CMYK" in caplog.text


def garbage(tmp_path):
    """Files that hold no whole picture, by what they are called."""
    whole = {}
    for name in ("whole.png", "whole.jpg", "whole.webp", "whole.tif", "whole.bmp"):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        whole[name] = save(tmp_path, noise, name).read_bytes()
    cut = {name.replace("whole", "cut"): data[: len(data) // 2] for name, data in whole.items()}
    spoilt = bytearray(whole["whole.png"])
    spoilt[200:400] = bytes(200)
    text = {
        "text.jpg": b"this is a letter",
        "zero.png": b"",
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    return cut | {"spoilt.png": bytes(spoilt)} | text


NAMES = [
    "cut.png",
    "cut.jpg",
    "cut.webp",
    "cut.tif",
    "cut.bmp",
    "spoilt.png",
    "text.jpg",
    "zero.png",
    "eps.png",
]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_picture_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(garbage(tmp_path)[name])
    reason = {"zero": "empty", "text": "not a picture", "eps": "not a picture"}.get(
        name[:-4], "damaged|cut off|not a picture"
    )
    with pytest.raises(OSEDiffError, match=f"{name}.*({reason})"):
        read_image(tmp_path / name)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(OSEDiffError, match=r"none\.png.*No such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(OSEDiffError, match="directory"):
        read_image(tmp_path)


def test_decompression_bomb(tmp_path, monkeypatch):
    path = save(tmp_path, Image.new("L", (300, 300)), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(OSEDiffError, match=r"a\.png.*too many pixels"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.jpg"])
def test_orientation(tmp_path, name, orientation):
    """Corners of four colours, placed as the standard says that row 0 and column 0 lie."""
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :16], upright[:8, 16:], upright[8:, :16] = 200, 150, 80
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: np.rot90(upright.T, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name == "a.webp" else {}
    path = save(tmp_path, np.ascontiguousarray(stored), name, exif=exif.tobytes(), **options)
    got = rgb_of(path)[..., 0].astype(int)
    assert got.shape == upright.shape
    assert np.abs(got - upright).max() <= 3


def test_orientation_turns_alpha_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path, np.dstack([COLOURS, RAMP]), "a.png", exif=exif.tobytes())
    assert (alpha_of(path) == np.rot90(RAMP, -1)).all()


@pytest.mark.parametrize(
    "block", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_damaged_exif_costs_no_picture(tmp_path, block, caplog):
    caplog.set_level(logging.ERROR)
    path = save(tmp_path, COLOURS, "a.jpg", exif=block, quality=100)
    assert rgb_of(path).shape == COLOURS.shape


def test_nonsense_orientation_is_taken_as_upright(tmp_path, caplog):
    exif = Image.Exif()
    exif[0x0112] = 42
    assert rgb_of(save(tmp_path, COLOURS, "a.png", exif=exif.tobytes())).shape == COLOURS.shape
    assert "42" in caplog.text

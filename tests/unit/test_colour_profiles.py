"""Embedded colour profiles become sRGB; the profiles are built here, tag by tag, as ICC.1:2010 says."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from osediff_core.pictures.deep import encode_png
from osediff_core.pictures.images import read_image
from osediff_core.pictures.matrix_profile import converter
from osediff_core.pictures.pixels import srgb_profile

D50 = (0.9642, 1.0, 0.8249)
# Columns of RGB to XYZ (D50) as published for AdobeRGB (1998), and the same for sRGB.
WIDE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


def fixed(values):
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def xyz(values):
    return b"XYZ \0\0\0\0" + fixed(values)


def gamma(value):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256)) + b"\0\0"


def text(words):
    return b"text\0\0\0\0" + words + b"\0" * (4 - len(words) % 4)


def description(words):
    return b"desc\0\0\0\0" + struct.pack(">I", len(words) + 1) + words + bytes(1 + 78 + 3 - len(words) % 4)


def profile(kind, space, connection, tags):
    """An ICC profile of version 2.1."""
    tags = {b"desc": description(b"test"), b"cprt": text(b"none"), b"wtpt": xyz(D50)} | tags
    table, data, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", at + len(data), len(content))
        data += content
    header = struct.pack(
        ">I4sI4s4s4s12s4s", at + len(data), bytes(4), 0x02100000, kind, space, connection, bytes(12), b"acsp"
    )
    return header.ljust(68, b"\0") + fixed(D50) + bytes(48) + table + data


def rgb_profile(columns, power=2.2):
    names = zip((b"r", b"g", b"b"), columns, strict=True)
    tags = {}
    for letter, column in names:
        tags |= {letter + b"XYZ": xyz(column), letter + b"TRC": gamma(power)}
    return profile(b"mntr", b"RGB ", b"XYZ ", tags)


def cmyk_profile():
    """Ink of every kind darkens by a half of what is left: a table with two entries a side, in Lab."""
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(-1, 4)
    lab = b"".join(bytes([round(255 * 0.5 ** int(c.sum())), 128, 128]) for c in corners)
    identity = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed((1, 0, 0, 0, 1, 0, 0, 0, 1))
    table += identity * 4 + lab + identity * 3
    return profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table, b"A2B1": table})


def read_one(tmp_path, image, name="a.tif", **options):
    image.save(tmp_path / name, **options)
    return read_image(tmp_path / name).rgb[0, :, 0, 0].tolist()


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg", "a.webp"])
def test_a_wide_gamut_is_converted(tmp_path, name):
    """Expected from the matrices: this green of the wide space is more saturated in sRGB."""
    linear = (np.array([120, 180, 90]) / 255) ** 2.2 @ np.array(WIDE) @ np.linalg.inv(np.array(SRGB))
    want = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clip(0) ** (1 / 2.4) - 0.055) * 255
    options = {"lossless": True} if name == "a.webp" else {"quality": 100} if name == "a.jpg" else {}
    image = Image.new("RGB", (16, 16), (120, 180, 90))
    got = read_one(tmp_path, image, name, icc_profile=rgb_profile(WIDE), **options)
    assert np.abs(np.array(got) - want).max() <= 2
    assert abs(got[0] - 120) > 10


def test_alpha_and_palettes_go_with_it(tmp_path):
    wide = rgb_profile(WIDE)
    plain = read_one(tmp_path, Image.new("RGB", (4, 4), (120, 180, 90)), icc_profile=wide)
    assert read_one(tmp_path, Image.new("RGBA", (4, 4), (120, 180, 90, 7)), icc_profile=wide) == plain
    assert read_image(tmp_path / "a.tif").alpha.unique().tolist() == [7]
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([120, 180, 90])
    assert read_one(tmp_path, palette, "a.png", icc_profile=wide) == plain


@pytest.mark.parametrize("icc", [srgb_profile(), None], ids=["tagged", "untagged"])
def test_srgb_is_left_alone(tmp_path, icc, caplog):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8))
    noise.save(tmp_path / "a.png", icc_profile=icc)
    got = read_image(tmp_path / "a.png").rgb[0].permute(1, 2, 0).numpy()
    assert (got == np.asarray(noise)).all()
    assert caplog.text == ""


def test_grey_profile(tmp_path):
    grey = profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": gamma(1.0)})
    got = read_one(tmp_path, Image.new("L", (4, 4), 128), icc_profile=grey)
    assert all(abs(level - 188) <= 1 for level in got)  # half of the light is level 188 in sRGB
    got = read_one(tmp_path, Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)), icc_profile=grey)
    assert all(abs(level - 188) <= 1 for level in got)


def test_grey_picture_with_a_colour_profile(tmp_path, caplog):
    got = read_one(tmp_path, Image.new("L", (4, 4), 128), "a.jpg", quality=100, icc_profile=srgb_profile())
    assert got == [128, 128, 128]
    assert caplog.text == ""


def test_cmyk_profile(tmp_path, caplog):
    paper = read_one(tmp_path, Image.new("CMYK", (4, 4), (0, 0, 0, 0)), icc_profile=cmyk_profile())
    one = read_one(tmp_path, Image.new("CMYK", (4, 4), (0, 255, 0, 0)), icc_profile=cmyk_profile())
    jpeg = read_one(
        tmp_path, Image.new("CMYK", (8, 8), (0, 255, 0, 0)), "a.jpg", quality=100, icc_profile=cmyk_profile()
    )
    assert min(paper) >= 253
    assert max(one) - min(one) <= 2  # grey, where the plain formula would be magenta
    assert 90 <= one[0] <= 150
    assert np.abs(np.array(jpeg) - one).max() <= 4
    assert caplog.text == ""


@pytest.mark.parametrize(
    "icc",
    [
        b"no profile",
        rgb_profile(WIDE)[:200],
        cmyk_profile(),
        profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": gamma(1.0)}),
    ],
    ids=["noise", "cut", "CMYK on RGB", "grey on RGB"],
)
def test_a_profile_of_no_use_is_a_warning(tmp_path, icc, caplog):
    assert read_one(tmp_path, Image.new("RGB", (4, 4), (120, 180, 90)), icc_profile=icc) == [120, 180, 90]
    assert "a.tif: its colour profile cannot be used" in caplog.text


def test_lab_is_converted(tmp_path):
    got = read_one(tmp_path, Image.new("LAB", (4, 4), (255, 128, 128)))
    assert min(got) >= 254


def parametric(kind, *numbers):
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + fixed(numbers)


def table(values):
    return b"curv\0\0\0\0" + struct.pack(f">I{len(values)}H", len(values), *values)


CURVES = {
    "linear": b"curv\0\0\0\0\0\0\0\0",
    "gamma": gamma(1.8),
    "table": table([round(65535 * (i / 63) ** 2) for i in range(64)]),
    "0": parametric(0, 2.2),
    "1": parametric(1, 2.4, 1.1, -0.1),
    "2": parametric(2, 2.0, 1.0, -0.1, 0.19),
    "3": parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
    "4": parametric(4, 2.0, 0.9, 0.1, 0.1, 0.05, 0.0, 0.01),
}


def with_curve(curve, space=b"RGB "):
    names = [b"k"] if space == b"GRAY" else [b"r", b"g", b"b"]
    tags = {name + b"TRC": curve for name in names}
    if space == b"RGB ":
        tags |= {name + b"XYZ": xyz(column) for name, column in zip(names, WIDE, strict=True)}
    return profile(b"mntr", space, b"XYZ ", tags)


def by_lcms(content, pixels):
    """What Pillow's lcms makes of uint8 pixels, as files are read."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(content))
    image = Image.fromarray(pixels)
    as_it_is = 0x0100  # cmsFLAGS_NOOPTIMIZE: no table in place of curves
    relative = ImageCms.Intent.RELATIVE_COLORIMETRIC
    srgb = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(source, srgb, image.mode, "RGB", relative, flags=as_it_is)
    return np.asarray(ImageCms.applyTransform(image, transform)).astype(float)


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("space", [b"RGB ", b"GRAY"])
def test_a_matrix_profile_in_full_is_lcms_within_its_rounding(name, space):
    content = with_curve(CURVES[name], space)
    steps = np.arange(0, 256, 5, dtype=np.uint8)
    pixels = steps[:, None] if space == b"GRAY" else np.stack(np.meshgrid(steps, steps), -1)[..., [0, 1, 1]]
    convert = converter(content)
    values = (pixels if pixels.ndim == 3 else pixels[..., None]) / np.float32(255)
    wanted = by_lcms(content, np.ascontiguousarray(pixels))
    assert np.abs(convert(values) * 255 - wanted).max() <= 1.5


def test_16_bits_of_another_space_are_read_in_full(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (40, 50, 3)).astype(np.uint16)

    def encode(image):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", icc_profile=with_curve(gamma(2.2)))
        return buffer.getvalue()

    (tmp_path / "a.png").write_bytes(encode_png(values, encode))
    found, eight = read_image(tmp_path / "a.png", full=True), read_image(tmp_path / "a.png")
    assert found.rgb.is_floating_point()
    difference = (found.rgb * 255 - eight.rgb.float()).abs()
    # The other one was rounded before it was converted, which shows where the curve of sRGB is steep.
    assert difference.quantile(0.95) < 1.5
    assert difference.mean() < 0.5
    assert len(found.rgb.unique()) > 3000


@pytest.mark.parametrize("cut", [0, 50, 130, 200, 400])
def test_a_profile_that_is_no_such_one_is_left_to_lcms(cut):
    assert converter(with_curve(gamma(2.2))[:cut]) is None
    for curve in (
        parametric(1, 2.0, 0.0, 0.5),
        parametric(0, -3.0),
        parametric(9, 1.0),
        table([])[:8] + b"\xff" * 4,
    ):
        convert = converter(with_curve(curve))
        assert convert is None or np.isfinite(convert(np.linspace(0, 1, 90).reshape(30, 3, 1))).all()
    tables = profile(b"prtr", b"RGB ", b"Lab ", {b"A2B0": bytes(100)})
    assert converter(tables) is None


def test_grey_with_a_profile_of_colours_is_read_in_full_and_stays_grey(tmp_path):
    values = np.linspace(0, 65535, 40 * 50).astype(np.uint16).reshape(40, 50)
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=with_curve(gamma(1.8)))
    found, eight = read_image(tmp_path / "a.png", full=True), read_image(tmp_path / "a.png")
    assert found.grey
    assert found.rgb.is_floating_point()
    assert (found.rgb * 255 - eight.rgb.float()).abs()[..., 5:, :].max() < 1.6
    assert len(found.rgb.unique()) > 1500

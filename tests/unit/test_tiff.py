"""TIFF: every layout comes out as its tags say, or is refused by name; files are built here, tag by tag."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import read_image

from .tiff_tags import PHOTOMETRIC, stored, tiff

HEIGHT, WIDTH = 21, 34
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
# Four channels between 0 and 1 of which no two are alike, (H, W, 4).
TRUTH = np.stack([X / WIDTH, Y / HEIGHT, (X + Y) / (HEIGHT + WIDTH), (X * 2 + Y) % 20 / 20], -1)
COLOURS = {"white is zero": 1, "grey": 1, "RGB": 3, "CMYK": 4}


def with_tag(content, number, value):
    """Change the value of a short tag of a little-endian file."""
    tag = struct.pack("<HHI", number, 3, 1)
    at = content.index(tag) + len(tag)
    return content[:at] + struct.pack("<H", value) + content[at + 2 :]


def samples_of(kind, dtype, alpha):
    """The truth as samples (H, W, C) of a type, at its full range."""
    count = COLOURS[kind]
    values = TRUTH[..., :count]
    values = 1 - values if kind == "white is zero" else values
    values = np.concatenate([values, TRUTH[..., 3:]], -1) if alpha else values
    scale = 1.0 if dtype[0] == "f" else np.iinfo(dtype).max
    return (values * scale).astype(dtype)


def wanted(kind):
    colour = TRUTH[..., : COLOURS[kind]]
    return (1 - colour[..., :3]) * (1 - colour[..., 3:]) if kind == "CMYK" else colour


def apart(path, kind, alpha=False):
    """How far what is read is from the truth, in parts of the full range."""
    picture = read_image(path)
    rgb = picture.rgb[0].permute(1, 2, 0).numpy() / 255
    far = np.abs(rgb - wanted(kind))[TRUTH[..., 3] > 0 if alpha else ...].max()
    if alpha:
        return max(far, np.abs(picture.alpha[0, 0].numpy() / 255 - TRUTH[..., 3]).max())
    assert picture.alpha is None
    return far


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("kind", list(PHOTOMETRIC))
@pytest.mark.parametrize("alpha", [False, True])
def test_samples_of_every_type(tmp_path, dtype, kind, alpha):
    for order, planar in (("<", False), (">", True)):
        content = stored(samples_of(kind, dtype, alpha), kind, order, planar=planar, extra=(2,) * alpha)
        (tmp_path / "a.tif").write_bytes(content)
        assert apart(tmp_path / "a.tif", kind, alpha) <= (2 / 127 if dtype == "i1" else 2 / 255)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize(
    ("dtype", "predictor"), [("u1", 1), ("u1", 2), ("u2", 2), ("f4", 1), ("f4", 3), ("f8", 3)]
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_deflate_predictors_planes_and_tiles(tmp_path, planar, tile, dtype, predictor, order):
    content = stored(
        samples_of("RGB", dtype, False),
        "RGB",
        order,
        planar=planar,
        tile=tile,
        deflate=True,
        predictor=predictor,
    )
    (tmp_path / "a.tif").write_bytes(content)
    assert apart(tmp_path / "a.tif", "RGB") <= 1 / 255


@pytest.mark.parametrize("extra", [(0,), (0, 0)])
def test_samples_that_mean_nothing_are_left_out(tmp_path, extra):
    samples = samples_of("RGB", "u2", False)
    noise = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, len(extra))).astype(np.uint16)
    (tmp_path / "a.tif").write_bytes(stored(np.concatenate([samples, noise], -1), "RGB", extra=extra))
    assert apart(tmp_path / "a.tif", "RGB") <= 1 / 255


def test_premultiplied_16_bit_colours_are_divided(tmp_path):
    alpha = np.full((HEIGHT, WIDTH, 1), 0.5)
    samples = np.concatenate([TRUTH[..., :3] * alpha, alpha], -1)
    (tmp_path / "a.tif").write_bytes(stored((samples * 65535).astype(np.uint16), "RGB", extra=(1,)))
    picture = read_image(tmp_path / "a.tif")
    assert np.abs(picture.rgb[0].permute(1, 2, 0).numpy() / 255 - TRUTH[..., :3]).max() <= 3 / 255
    assert picture.alpha.unique().tolist() == [127]


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits"])
def test_compressions_that_pillow_decodes(tmp_path, compression):
    grey = (TRUTH[..., 0] * 65535).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.tif", compression=compression)
    assert apart(tmp_path / "a.tif", "grey") <= 1 / 255
    Image.fromarray(65535 - grey).save(tmp_path / "a.tif", compression=compression)
    (tmp_path / "a.tif").write_bytes(with_tag((tmp_path / "a.tif").read_bytes(), 262, 0))
    assert apart(tmp_path / "a.tif", "white is zero") <= 1 / 255
    Image.fromarray(TRUTH[..., 0].astype(np.float32)).save(tmp_path / "a.tif", compression=compression)
    assert apart(tmp_path / "a.tif", "grey") <= 1 / 255


@pytest.mark.parametrize("bits", [1, 2, 4, 12])
@pytest.mark.parametrize("kind", ["grey", "white is zero"])
def test_samples_that_are_no_whole_bytes(tmp_path, bits, kind):
    levels = np.rint(TRUTH[..., 0] * (2**bits - 1)).astype(int)
    shown = 2**bits - 1 - levels if kind == "white is zero" else levels
    rows = ["".join(f"{value:0{bits}b}" for value in row) for row in shown]
    packed = [int(row.ljust(-len(row) // 8 * -8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows]
    tags = [(256, 4, [WIDTH]), (257, 4, [HEIGHT]), (258, 3, [bits]), (259, 3, [1])]
    tags += [(262, 3, [PHOTOMETRIC[kind]]), (277, 3, [1]), (278, 3, [HEIGHT])]
    (tmp_path / "a.tif").write_bytes(tiff(tags, [b"".join(packed)]))
    if (bits, kind) == (12, "white is zero"):
        with pytest.raises(OSEDiffError, match=r"a\.tif is a TIFF that cannot be read \(grey in 1 12-bit"):
            read_image(tmp_path / "a.tif")
        return
    got = read_image(tmp_path / "a.tif").rgb[0, 0].numpy() / 255
    assert np.abs(got - levels / (2**bits - 1)).max() <= 1 / 255


def test_negative_values_are_refused_for_their_reason(tmp_path):
    samples = (samples_of("grey", "i2", False).astype(int) - 16000).astype(np.int16)
    (tmp_path / "a.tif").write_bytes(stored(samples, "grey"))
    with pytest.raises(OSEDiffError, match=r"a\.tif has negative pixels"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("number", "value", "says"),
    [
        (259, 50002, "compression 50002"),
        (262, 32803, "camera raw"),
        (262, 4, "photometric 4"),
        (284, 7, None),  # no such arrangement: taken as interleaved, as all readers do
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, number, value, says):
    content = stored(samples_of("grey", "u2", False), "grey")
    (tmp_path / "a.tif").write_bytes(with_tag(content, number, value))
    if says is None:
        assert apart(tmp_path / "a.tif", "grey") <= 1 / 255
        return
    with pytest.raises(OSEDiffError, match=rf"a\.tif is a TIFF that cannot be read \(.*{says}.*save it as"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("compression", "says"),
    [
        (50001, r"is a TIFF that is damaged, or that Pillow was built here without .*50001"),
        (5, r"is damaged or cut off"),
    ],
)
def test_what_not_every_build_unpacks_is_said_to_be_that(tmp_path, compression, says):
    content = stored(samples_of("RGB", "u1", False), "RGB")
    (tmp_path / "a.tif").write_bytes(with_tag(content, 259, compression))
    with pytest.raises(OSEDiffError, match=rf"a\.tif {says}"):
        read_image(tmp_path / "a.tif")


def test_inks_that_are_not_cmyk_are_refused(tmp_path):
    tags = [(256, 4, [2]), (257, 4, [2]), (258, 3, [8] * 4), (259, 3, [1]), (262, 3, [5]), (277, 3, [4])]
    content = tiff([*tags, (278, 3, [2]), (332, 3, [2])], [bytes(16)])
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(OSEDiffError, match="CMYK in 4 8-bit"):
        read_image(tmp_path / "a.tif")


def test_uncompressed_chroma_at_half_size_is_refused(tmp_path):
    tags = [(256, 4, [4]), (257, 4, [4]), (258, 3, [8] * 3), (259, 3, [1]), (262, 3, [6]), (277, 3, [3])]
    (tmp_path / "a.tif").write_bytes(tiff([*tags, (278, 3, [4]), (530, 3, [2, 2])], [bytes(24)]))
    with pytest.raises(OSEDiffError, match="YCbCr in 3 8-bit"):
        read_image(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes(tiff([*tags, (278, 3, [4]), (530, 3, [1, 1])], [b"\x80" * 48]))
    assert read_image(tmp_path / "a.tif").rgb.unique().tolist() == [128]


@pytest.mark.parametrize("scale", [1, 256])
def test_palettes_of_8_bits_are_not_black(tmp_path, scale):
    palette = [v * scale for v in (10, 200, *[0] * 254, 20, 100, *[0] * 254, 30, 50, *[0] * 254)]
    tags = [(256, 4, [2]), (257, 4, [1]), (258, 3, [8]), (259, 3, [1]), (262, 3, [3]), (277, 3, [1])]
    (tmp_path / "a.tif").write_bytes(tiff([*tags, (278, 3, [1]), (320, 3, palette)], [b"\0\1"]))
    assert read_image(tmp_path / "a.tif").rgb[0, :, 0].T.tolist() == [[10, 20, 30], [200, 100, 50]]


@pytest.mark.parametrize("compression", [1, 8])
def test_missing_pixels_are_named(tmp_path, compression):
    tags = [(256, 4, [4]), (257, 4, [4]), (258, 3, [8] * 3), (259, 3, [compression]), (262, 3, [2])]
    tags += [(277, 3, [3]), (278, 3, [2])]
    whole, short = [zlib.compress(bytes(n)) if compression == 8 else bytes(n) for n in (24, 23)]
    (tmp_path / "a.tif").write_bytes(tiff(tags, [whole, whole]))
    assert read_image(tmp_path / "a.tif").rgb.shape == (1, 3, 4, 4)
    (tmp_path / "a.tif").write_bytes(tiff(tags, [whole, short]))
    with pytest.raises(OSEDiffError, match=r"a\.tif is cut off: 1 bytes"):
        read_image(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes(tiff(tags, [whole]))
    with pytest.raises(OSEDiffError, match=r"a\.tif is damaged: 2 parts"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_it_is_turned_upright_whoever_reads_it(tmp_path, orientation, dtype):
    upright = (TRUTH[..., 0] * np.iinfo(dtype).max).astype(dtype)
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: np.rot90(upright.T, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "ours.tif", tiffinfo={274: orientation})
    options = {"compression": "tiff_lzw", "tiffinfo": {274: orientation}}
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "pillows.tif", **options)
    for name in ("ours.tif", "pillows.tif"):
        assert apart(tmp_path / name, "grey") <= 1 / 255


def test_bigtiff(tmp_path):
    grey = np.rint(TRUTH[..., 0] * 65535).astype("<u2").tobytes()
    tags = [(256, WIDTH), (257, HEIGHT), (258, 16), (259, 1), (262, 1), (273, 16), (277, 1), (278, HEIGHT)]
    tags += [(279, len(grey))]
    directory = struct.pack("<Q", len(tags)) + b"".join(struct.pack("<HHQQ", n, 4, 1, v) for n, v in tags)
    head = struct.pack("<4sHHQ", b"II+\0", 8, 0, 16 + len(grey))
    (tmp_path / "a.tif").write_bytes(head + grey + directory + bytes(8))
    assert apart(tmp_path / "a.tif", "grey") <= 1 / 255

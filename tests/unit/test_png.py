"""PNG: colours as the file declares them, exact depth, and nothing beside the pixels that decides."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import decode_image
from osediff_core.pictures.pixels import srgb_profile

from .png_chunks import chunk, png

COLOURS = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (9, 7, 3)).astype(np.uint16)
P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.3127, 0.329))
# Display P3 to sRGB, linear, as CSS Color 4 states it.
P3_TO_SRGB = np.array(
    [[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]],
)


def gama(value):
    return chunk(b"gAMA", struct.pack(">I", round(value * 100000)))


def chrm(primaries):
    red, green, blue, white = primaries
    return chunk(b"cHRM", struct.pack(">8I", *(round(v * 100000) for v in (*white, *red, *green, *blue))))


def cicp(*points):
    return chunk(b"cICP", bytes(points))


def iccp(profile):
    return chunk(b"iCCP", b"profile\0\0" + zlib.compress(profile))


def to_light(values):
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def from_light(light):
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def read(content):
    """The picture as (H, W, 3) in 0 to 255."""
    return decode_image(content, "a.png").rgb[0].permute(1, 2, 0).numpy().astype(float)


@pytest.mark.parametrize("pixels", [COLOURS, DEEP], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("gamma", [1.0, 1 / 1.8, 1 / 2.6])
def test_gamma_is_applied(pixels, gamma):
    top = np.iinfo(pixels.dtype).max
    want = from_light((pixels / top) ** (1 / gamma)) * 255
    assert np.abs(read(png(pixels, gama(gamma))) - want).max() <= 0.51


def test_gamma_of_grey_and_of_pictures_with_alpha():
    for channels in (1, 2, 4):
        pixels = np.random.default_rng(2).integers(0, 65536, (9, 7, channels)).astype(np.uint16)
        for values in (pixels, (pixels >> 8).astype(np.uint8)):
            top = np.iinfo(values.dtype).max
            picture = decode_image(png(values, gama(1)), "a.png")
            want = from_light(values[..., : channels - (channels % 2 == 0)] / top) * 255
            assert np.abs(picture.rgb[0].permute(1, 2, 0).numpy() - want).max() <= 0.51
            if channels % 2 == 0:
                assert np.abs(picture.alpha[0, 0].numpy() - values[..., -1] / top * 255).max() <= 0.51


@pytest.mark.parametrize(
    "declared",
    [
        gama(0.45455),
        gama(0.45),
        gama(0.45455) + chrm(((0.64, 0.33), (0.3, 0.6), (0.15, 0.06), (0.3127, 0.329))),
        chunk(b"sRGB", b"\0") + gama(1),
        cicp(1, 13, 0, 1),
        cicp(2, 2, 0, 1),
    ],
)
def test_what_means_srgb_changes_nothing(declared, caplog):
    assert (read(png(COLOURS, declared)) == COLOURS).all()
    assert np.abs(read(png(DEEP, declared)) - DEEP / 257).max() <= 0.5
    assert caplog.text == ""


@pytest.mark.parametrize("declared", [cicp(12, 13, 0, 1), chrm(P3), chrm(P3) + gama(1 / 2.2)])
@pytest.mark.parametrize("pixels", [COLOURS, DEEP], ids=["8 bit", "16 bit"])
def test_display_p3_becomes_srgb(declared, pixels):
    values = pixels / np.iinfo(pixels.dtype).max
    want = from_light(to_light(values) @ P3_TO_SRGB.T) * 255
    assert np.abs(read(png(pixels, declared)) - want).max() <= 1


def test_another_white_stays_white():
    d50 = (*P3[:3], (0.3457, 0.3585))
    white = np.full((2, 2, 3), 255, np.uint8)
    assert (read(png(white, chrm(d50) + gama(1))) == 255).all()


def test_precedence():
    """cICP before iCCP before sRGB before gAMA: the strongest here means sRGB, the others would change it."""
    srgb, profile, linear = chunk(b"sRGB", b"\0"), iccp(srgb_profile()), gama(1)
    assert (read(png(COLOURS, linear + srgb)) == COLOURS).all()
    assert (read(png(COLOURS, linear + profile)) == COLOURS).all()
    assert (read(png(COLOURS, cicp(1, 13, 0, 1) + linear + profile)) == COLOURS).all()
    assert (read(png(COLOURS, cicp(1, 8, 0, 1) + srgb + profile)) != COLOURS).any()


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ((9, 16, 0, 1), "PQ"),
        ((9, 18, 0, 1), "HLG"),
        ((12, 13, 0, 0), "narrow"),
        ((3, 13, 0, 1), "primaries 3"),
        ((1, 9, 0, 1), "transfer 9"),
    ],
)
def test_colours_that_cannot_be_converted_are_refused(points, says):
    with pytest.raises(OSEDiffError, match=rf"a\.png (is|declares).*{says}.*export it"):
        decode_image(png(COLOURS, cicp(*points)), "a.png")


@pytest.mark.parametrize(
    "nonsense", [gama(0), gama(42000), gama(0.00001), chrm(((0, 0),) * 4), chrm(((0.3, 0.3),) * 4)]
)
def test_nonsense_about_colours_is_said_and_left_out(nonsense, caplog):
    assert (read(png(COLOURS, nonsense)) == COLOURS).all()
    assert "a.png: what it says of its colours cannot be used" in caplog.text


def test_deep_colours_are_rounded_and_their_transparent_colour_is_one_of_all_bits():
    want = np.rint(DEEP / 257)
    near = DEEP.copy()
    near[0, 0] = near[3, 4] ^ 1
    picture = decode_image(png(near, chunk(b"tRNS", near[3, 4].astype(">u2").tobytes())), "a.png")
    want[3, 4] = picture.rgb[0, :, 3, 4]  # nobody sees it
    assert (picture.rgb[0].permute(1, 2, 0).numpy()[1:] == want[1:]).all()
    assert (picture.alpha == 0).nonzero().tolist() == [[0, 0, 3, 4]]


def test_interlaced_deep_colours():
    grey = np.arange(8 * 8, dtype=np.uint16).reshape(8, 8, 1) * 1000
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    colour = np.concatenate([grey, 65535 - grey, grey // 2], -1)
    rows = b"".join(
        b"\0" + row.astype(">u2").tobytes() for y, x, dy, dx in passes for row in colour[y::dy, x::dx]
    )
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 1))
    content = png(colour)[:8] + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert (read(content) == np.rint(colour / 257)).all()


@pytest.mark.parametrize(
    "kind", [b"pHYs", b"iCCP", b"eXIf", b"tEXt", b"iTXt", b"gAMA", b"sRGB", b"vpAg", b"tIME", b"acTL"]
)
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_wrong_checksum_beside_the_pixels_is_a_warning(kind, where, caplog):
    content = png(COLOURS, **{where: chunk(kind, b"some\0\0thing", wrong=True)})
    assert (read(content) == COLOURS).all()
    assert "wrong checksum" in caplog.text


@pytest.mark.parametrize(
    "kind",
    [
        b"pHYs",
        b"iCCP",
        b"eXIf",
        b"tEXt",
        b"zTXt",
        b"iTXt",
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"cICP",
        b"acTL",
        b"vpAg",
        b"tRNS",
    ],
)
@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff" * 99, b"a\0\0\xff\xff\xff"])
def test_nonsense_beside_the_pixels_costs_no_picture(kind, content):
    assert (read(png(COLOURS, chunk(kind, content))) == COLOURS).all()


@pytest.mark.parametrize(
    ("kind", "says"),
    [(b"IHDR", "the checksum of its IHDR is wrong"), (b"IDAT", "the checksum of its IDAT is wrong")],
)
def test_a_wrong_checksum_of_the_pixels_is_named(kind, says):
    content = bytearray(png(COLOURS))
    at = content.index(kind)
    length = int.from_bytes(content[at - 4 : at], "big")
    content[at + 4 + length] ^= 1
    with pytest.raises(OSEDiffError, match=rf"a\.png is damaged: {says}"):
        decode_image(bytes(content), "a.png")


@pytest.mark.parametrize("after", [b"", chunk(b"tEXt", b"key\0text"), chunk(b"tEXt", b"key\0text")[:-7]])
def test_a_missing_end_is_a_warning(after, caplog):
    assert (read(png(COLOURS, after=after, end=False)) == COLOURS).all()
    assert "a.png: its end is missing" in caplog.text


def test_missing_pixels_are_named():
    whole = png(COLOURS, end=False)
    for cut in range(9, len(whole)):
        with pytest.raises(OSEDiffError, match=r"a\.png is (damaged|cut off)"):
            decode_image(whole[:cut], "a.png")


def test_a_chunk_that_no_one_knows_and_all_need():
    with pytest.raises(OSEDiffError, match=r"a\.png holds the chunk CgBI, no part of PNG"):
        decode_image(png(COLOURS, chunk(b"CgBI", b"1234")), "a.png")


def test_a_profile_of_more_than_a_megabyte_is_used(caplog):
    """The profile is made long by a table that stands behind its tags and means nothing."""
    profile = bytearray(srgb_profile() + np.random.default_rng(0).bytes(1_500_000))
    profile[:4] = struct.pack(">I", len(profile))
    assert (read(png(COLOURS, iccp(bytes(profile)))) == COLOURS).all()
    assert caplog.text == ""


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt"])
def test_a_text_of_two_megabytes_is_kept(kind):
    text = "x" * 2_000_000
    body = {
        b"tEXt": b"workflow\0" + text.encode(),
        b"zTXt": b"workflow\0\0" + zlib.compress(text.encode()),
        b"iTXt": b"workflow\0\1\0\0\0" + zlib.compress(text.encode()),
    }[kind]
    picture = decode_image(png(COLOURS, chunk(kind, body)), "a.png")
    assert picture.notes.text == (("workflow", text),)


def test_what_unfolds_without_end_is_left_out(caplog):
    bomb = zlib.compress(bytes(64 << 20))
    chunks = iccp(bytes(64 << 20)) + chunk(b"zTXt", b"a\0\0" + bomb) + chunk(b"iTXt", b"b\0\1\0\0\0" + bomb)
    chunks += b"".join(chunk(b"zTXt", b"c\0\0" + zlib.compress(bytes(9 << 20))) for _ in range(6))
    picture = decode_image(png(COLOURS, chunks), "a.png")
    assert sum(len(text) for _, text in picture.notes.text) <= 32 << 20
    assert "its colour profile cannot be used (it is longer than 16 MiB)" in caplog.text
    assert any("longer than" in lost for lost in picture.notes.lost)


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (13_000, 13_000), (0, 5), (5, 0)])
def test_a_small_file_cannot_ask_for_gigabytes(width, height):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0))
    content = png(COLOURS)[:8] + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    with pytest.raises(OSEDiffError, match=r"a\.png (has too many pixels|is damaged: it says)"):
        decode_image(content, "a.png")


def test_animations_give_the_picture_itself(caplog):
    first, second = (Image.fromarray(a) for a in (COLOURS, COLOURS[::-1].copy()))
    buffer = io.BytesIO()
    first.save(buffer, "PNG", save_all=True, append_images=[second])
    assert (read(buffer.getvalue()) == COLOURS).all()
    assert "a.png has more than one frame" in caplog.text

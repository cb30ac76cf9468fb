"""JPEG: a missing end is not a missing picture, a missing picture is named, and nothing beside it decides."""

from __future__ import annotations

import io
import struct
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import decode_image

Y, X = np.mgrid[0:40, 0:56]
SMOOTH = np.stack([X * 4, Y * 5, (X + Y) * 2], -1).astype(np.uint8)
FLAT = np.full((40, 56, 3), 128, np.uint8)
KINDS = [
    {},
    {"progressive": True},
    {"restart_marker_blocks": 3},
    {"progressive": True, "restart_marker_rows": 1},
    {"optimize": True, "quality": 30},
]


def encoded(array, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def segment(kind, content):
    return bytes([0xFF, kind]) + struct.pack(">H", len(content) + 2) + content


def with_segments(*segments):
    content = encoded(SMOOTH)
    return content[:2] + b"".join(segments) + content[2:]


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("array", [SMOOTH, FLAT], ids=["smooth", "flat"])
def test_a_missing_end_is_a_warning(options, mode, array, caplog):
    content = encoded(array, mode, **options)
    whole = decode_image(content, "a.jpg").rgb
    assert (decode_image(content[:-2], "a.jpg").rgb == whole).all()
    assert "a.jpg: its end (the last two bytes) is missing" in caplog.text


def test_a_broken_copy_that_is_filled_up_with_zeros(caplog):
    content = encoded(SMOOTH)
    whole = decode_image(content, "a.jpg").rgb
    assert (decode_image(content[:-2] + bytes(100), "a.jpg").rgb == whole).all()
    assert "its end" in caplog.text


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_missing_pixels_are_never_a_picture(options, mode):
    """Cut anywhere, it is the whole picture or refused: also between two scans and at a restart."""
    content = encoded(SMOOTH, mode, **options)
    whole = decode_image(content, "a.jpg").rgb
    refused = [read_or_refused(content[:cut], whole) for cut in range(2, len(content) - 2)]
    assert sum(refused) > len(content) - 40
    filled = [read_or_refused(content[:cut] + bytes(100), whole) for cut in range(2, len(content) - 2, 7)]
    assert sum(filled) > len(filled) - 8


def read_or_refused(content, whole):
    """Whether a JPEG is refused as cut off; where it is not, see that it is the whole picture."""
    try:
        got = decode_image(content, "a.jpg").rgb
    except OSEDiffError as error:
        return "cut off" in str(error)
    assert torch.equal(got, whole)
    return False


@pytest.mark.parametrize(
    "damaged",
    [
        segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta"),
        segment(0xE2, b"ICC_PROFILE\0\1\2half a profile"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"MPF\0nonsense"),
        segment(0xED, b"Photoshop 3.0\08BIM\xff"),
        segment(0xED, b"Photoshop 3.0\08BIM\4\4\0\0\xff\xff\xff\xff"),
        segment(0xEB, b"JP"),
        segment(0xFE, b"\xff\xfe\xfd"),
    ],
)
def test_nonsense_beside_the_pixels_costs_no_picture(damaged):
    want = decode_image(encoded(SMOOTH), "a.jpg").rgb
    assert (decode_image(with_segments(damaged), "a.jpg").rgb == want).all()


def unfold(name):
    return f"&{name};" * 10


def test_entities_in_xmp_unfold_nothing(caplog):
    names = "abcdefghij"
    entities = "".join(f'<!ENTITY {new} "{unfold(old)}">' for old, new in pairwise(names))
    packet = f'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">{entities}]><x>&j;</x>'.encode()
    content = with_segments(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet))
    assert decode_image(content, "a.jpg").notes.xmp is None
    assert "a.jpg: its XMP cannot be used (it declares entities)" in caplog.text


@pytest.mark.parametrize(("kind", "bits", "says"), [(0xC1, 12, "12-bit"), (0xC3, 8, "lossless")])
def test_kinds_that_cannot_be_read_are_named(kind, bits, says):
    content = bytearray(encoded(SMOOTH))
    at = content.index(b"\xff\xc0")
    content[at + 1], content[at + 4] = kind, bits
    with pytest.raises(OSEDiffError, match=rf"a\.jpg is a {says}.* JPEG, which cannot be read"):
        decode_image(bytes(content), "a.jpg")


def test_a_profile_in_many_segments():
    """Adobe RGB's green is outside of sRGB: converted, its red falls to nothing."""
    profile = bytearray(adobe_profile() + bytes(1_500_000))
    profile[:4] = struct.pack(">I", len(profile))
    content = encoded(np.full((16, 16, 3), (100, 200, 100), np.uint8), icc_profile=bytes(profile))
    assert content.count(b"ICC_PROFILE\0") > 20
    assert decode_image(content, "a.jpg").rgb[0, 0].float().mean() < 30


def adobe_profile():
    from .test_colour_profiles import WIDE, rgb_profile

    return rgb_profile(WIDE)


def camera(rule):
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 0xFFFF, 0xA005: {1: rule}}
    return exif.tobytes()


@pytest.mark.parametrize(("rule", "changed"), [("R98", False), ("R03", True)])
def test_cameras_say_adobe_rgb_by_a_rule(rule, changed):
    """The rule for design of camera files (DCF): R03 in the interoperability block, and no profile."""
    content = encoded(np.full((16, 16, 3), (100, 200, 100), np.uint8), quality=100, exif=camera(rule))
    assert (decode_image(content, "a.jpg").rgb[0, 0].float().mean() < 30) == changed

"""`osediff --long-side, --megapixels, --fit, --cover`."""

from __future__ import annotations

import pytest
from PIL import Image


@pytest.mark.parametrize(
    ("option", "value", "size"),
    [
        ("--scale", "2.25", (45, 27)),
        ("--long-side", "33", (33, 20)),
        ("--megapixels", "0.002", (58, 35)),
        ("--fit", "40x40", (40, 24)),
        ("--cover", "40×40", (40, 40)),
    ],
)
def test_every_way(osediff, picture, option, value, size):
    picture("a.png", (20, 12))
    status, said = osediff("a.png", "b.png", option, value)
    assert status == 0, said
    assert Image.open("b.png").size == size


def test_the_transparency_is_cut_as_the_picture(osediff, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = Image.new("RGBA", (20, 10), (200, 40, 40, 255))
    image.paste((0, 0, 0, 0), (0, 0, 10, 10))
    image.save("a.png")
    status, said = osediff("a.png", "b.png", "--cover", "20x20")
    assert status == 0, said
    alpha = Image.open("b.png").getchannel("A")
    assert alpha.size == (20, 20)
    assert alpha.getpixel((2, 10)) < 5
    assert alpha.getpixel((17, 10)) > 250


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--cover", "12"), "expected width x height"),
        (("--fit", "0x7"), "expected width x height"),
        (("--long-side", "0"), "at least 1"),
        (("--megapixels", "-1"), "above 0"),
        (("--scale", "2", "--fit", "9x9"), "not allowed with"),
    ],
)
def test_what_cannot_be_meant(osediff, picture, options, says):
    picture("a.png", (20, 12))
    with pytest.raises(SystemExit):
        osediff("a.png", "b.png", *options)


def test_a_picture_that_is_larger_fails_alone(osediff, picture):
    picture("in/large.png", (50, 12))
    picture("in/small.png", (20, 12))
    status, said = osediff("in", "out", "--long-side", "40")
    assert status == 1
    assert "large.png: a picture of 50 x 12 is larger than long side 40" in said
    assert Image.open("out/small.png").size == (40, 24)

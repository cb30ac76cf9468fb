"""The command line keeps what a file says beside its pixels, says once that it is lost, or strips it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, PngImagePlugin

from osediff_core.pictures.images import read_image

SCALE = ("--scale", "1")


def with_text(path, **options):
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat, Steps: 20")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 10, 3), 100, np.uint8)).save(path, pnginfo=info, dpi=(300, 300), **options)


def test_it_is_kept(osediff, tmp_path):
    with_text(tmp_path / "a.png")
    status, said = osediff("a.png", "b.png", *SCALE)
    assert status == 0
    assert "not carried over" not in said
    notes = read_image(tmp_path / "b.png").notes
    assert notes.text == (("parameters", "a cat, Steps: 20"),)
    assert [round(value) for value in notes.dpi] == [300, 300]


def test_what_is_lost_is_said_once_a_run(osediff, tmp_path):
    for name in ("a", "b", "c"):
        with_text(tmp_path / "in" / f"{name}.png")
    status, said = osediff("in", "out", *SCALE, "--format", "jpg")
    assert status == 0
    assert said.count("a.png: not carried over (said once a run): text") == 1
    assert said.count("not carried over") == 1


def test_strip_writes_the_picture_alone_and_says_nothing_of_it(osediff, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    with_text(tmp_path / "a.png", exif=exif)
    for name in ("b.png", "b.jpg"):
        status, said = osediff("a.png", name, *SCALE, "--strip")
        assert status == 0
        assert "not carried over" not in said
        with Image.open(tmp_path / name) as image:
            image.load()
            assert not image.getexif()
            assert not {"parameters", "dpi", "xmp", "comment"} & set(image.info)


def test_a_folder_has_every_format_that_can_be_read_alone(osediff, tmp_path, tree):
    (tmp_path / "in").mkdir()
    picture = Image.fromarray(np.full((8, 10, 3), 100, np.uint8))
    for name, kind in (("a.gif", "GIF"), ("b.jp2", "JPEG2000"), ("c.jpe", "JPEG")):
        picture.save(tmp_path / "in" / name, kind)
    (tmp_path / "in" / "d.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    status, said = osediff("in", "out", *SCALE)
    assert status == 1
    assert tree("out") == ["a.png", "b.png", "c.png"]
    assert "d.heic is a" in said


def test_a_damaged_chunk_beside_the_pixels_is_a_warning_and_a_picture(osediff, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", dpi=(300, 300))
    content = bytearray(buffer.getvalue())
    content[content.index(b"pHYs") + 5] ^= 1
    (tmp_path / "a.png").write_bytes(bytes(content))
    status, said = osediff("a.png", "b.png", *SCALE)
    assert status == 0
    assert "a.png: the chunk pHYs is damaged (wrong checksum) and was left out" in said

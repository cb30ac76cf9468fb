"""What a file says beside its pixels: carried to every format that has a place for it, else named as lost."""

from __future__ import annotations

import io
import struct
from importlib import util

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, PngImagePlugin

from osediff_core.errors import OSEDiffError
from osediff_core.pictures import formats
from osediff_core.pictures.blocks import losses, true_xmp
from osediff_core.pictures.encodings import from_code_points
from osediff_core.pictures.images import decode_image, read_image, write_image

from .png_chunks import chunk, png

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 16, 3)).astype(np.uint8)
SR = torch.zeros(1, 3, 16, 32, dtype=torch.uint8)
XMP = """<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:t="http://ns.adobe.com/tiff/1.0/" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"
 xmp:Rating="5" t:Orientation="6" hdrgm:Version="1.0"><t:ImageWidth>16</t:ImageWidth>
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">A ti\u0161tle</rdf:li></rdf:Alt></dc:title>
<xmp:Thumbnails><rdf:Alt/></xmp:Thumbnails></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
IPTC = b"\x1c\x02\x78\0\x07caption"


def segment(kind, content):
    return bytes([0xFF, kind]) + struct.pack(">H", len(content) + 2) + content


def jpeg(*segments, **options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", quality=100, **options)
    return buffer.getvalue()[:2] + b"".join(segments) + buffer.getvalue()[2:]


def xmp_segment():
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP.encode())


def iptc_segment():
    other = b"8BIM\x03\xed\x04name\0" + struct.pack(">I", 3) + b"abc\0"
    return segment(
        0xED, b"Photoshop 3.0\0" + other + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
    )


def carried(tmp_path, content, name):
    """Read a file from memory, write a result of it, and read that."""
    picture = decode_image(content, "in")
    write_image(tmp_path / name, SR, exif=picture.exif, notes=picture.notes)
    return read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.bmp"])
def test_resolution(tmp_path, name):
    sources = [jpeg(dpi=(300, 200)), png(PIXELS, chunk(b"pHYs", struct.pack(">IIB", 11811, 7874, 1)))]
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "TIFF", dpi=(300, 200))
    exif = Image.Exif()
    exif[0x011A], exif[0x011B], exif[0x0128] = 300.0, 200.0, 2
    sources += [buffer.getvalue(), jpeg(exif=exif.tobytes())]
    for content in sources:
        assert np.abs(np.subtract(carried(tmp_path, content, name).notes.dpi, (300, 200))).max() < 0.1


def test_resolution_is_turned_with_the_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(jpeg(dpi=(300, 200), exif=exif.tobytes()), "a.jpg").notes.dpi == (200, 300)


@pytest.mark.parametrize("dpi", [(0, 0), (1, 1), (2**31 - 1, 300)])
def test_a_resolution_that_nobody_measured_is_left_out(dpi):
    across, down = (round(v / 0.0254) for v in dpi)
    content = png(PIXELS, chunk(b"pHYs", struct.pack(">IIB", across % 2**32, down % 2**32, 1)))
    assert decode_image(content, "a.png").notes.dpi is None


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_xmp_is_kept_without_what_is_about_the_old_pixels(tmp_path, name):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "WEBP", lossless=True, xmp=XMP.encode())
    png_text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.encode())
    for content in (jpeg(xmp_segment()), png(PIXELS, png_text), buffer.getvalue()):
        assert decode_image(content, "in").rgb.shape[2:] == (16, 8)  # turned, as the XMP says
        xmp = carried(tmp_path, content, name).notes.xmp.decode()
        assert 'xmp:Rating="5"' in xmp
        assert "A ti\u0161tle" in xmp
        for stale in ("Orientation", "ImageWidth", "Thumbnails", "hdrgm:Version"):
            assert stale not in xmp


@pytest.mark.parametrize(
    "packet", [b"", b"<x", b"\xff\xfe<\0x\0", b"<x>" * 200_000, b"<x/>" + b" " * (2 << 20)]
)
def test_xmp_that_cannot_be_read(packet):
    with pytest.raises(ValueError, match="it is"):
        true_xmp(packet)


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_iptc_is_kept(tmp_path, name):
    assert carried(tmp_path, jpeg(iptc_segment()), name).notes.iptc == IPTC


def test_text_of_png_is_kept(tmp_path):
    info = PngImagePlugin.PngInfo()
    texts = (
        ("parameters", "a cat\nSteps: 20"),
        ("workflow", '{"nodes": "\u732b"}'),
        ("prompt", "x" * 1_500_000),
    )
    for key, text in texts:
        info.add_text(key, text, zip=key == "prompt")
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG", pnginfo=info)
    assert carried(tmp_path, buffer.getvalue(), "a.png").notes.text == texts
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == dict(texts)


def test_a_comment_of_jpeg_is_kept(tmp_path):
    content = jpeg(comment="made by h\u00e4nd".encode())
    for name in ("a.jpg", "a.png"):
        assert carried(tmp_path, content, name).notes.text == (("Comment", "made by h\u00e4nd"),)


def test_exif_that_is_too_long_for_jpeg_is_kept_elsewhere(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "workflow" * 20_000
    content = png(PIXELS, chunk(b"eXIf", exif.tobytes()[6:]))
    for name in ("a.png", "a.webp", "a.tif"):
        assert b"workflowworkflow" in carried(tmp_path, content, name).exif


@pytest.mark.parametrize(
    ("content", "kind", "lost"),
    [
        (jpeg(xmp_segment(), iptc_segment()), "PNG", ["IPTC"]),
        (jpeg(xmp_segment(), iptc_segment()), "JPEG", []),
        (jpeg(xmp_segment(), iptc_segment()), "BMP", ["XMP", "IPTC"]),
        (png(PIXELS, chunk(b"tEXt", b"parameters\0cat")), "PNG", []),
        (png(PIXELS, chunk(b"tEXt", b"parameters\0cat")), "JPEG", ["text"]),
        (png(PIXELS, chunk(b"tEXt", b"parameters\0cat")), "WEBP", ["text"]),
        (png(PIXELS, chunk(b"caBX", b"c2pa")), "PNG", ["content credentials"]),
        (jpeg(segment(0xE2, b"MPF\0II*\0")), "JPEG", ["gain map"]),
        (jpeg() + b"\0\0\0\x18ftypmp42", "JPEG", ["film"]),
        (jpeg() + bytes(64), "JPEG", []),
        (jpeg(segment(0xEB, b"JP\0\1")), "JPEG", ["content credentials"]),
    ],
)
def test_what_will_be_lost_is_named(content, kind, lost):
    picture = decode_image(content, "in")
    found = losses(picture.notes, picture.exif, kind)
    if lost != ["gain map"]:
        found = [what for what in found if "gain map" not in what or "film" in lost]
    assert len(found) == len(lost)
    assert all(any(word in what for what in found) for word in lost)


def test_losing_exif_is_named():
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    picture = decode_image(jpeg(exif=exif.tobytes()), "in")
    assert losses(picture.notes, picture.exif, "BMP") == ["EXIF"]
    assert losses(picture.notes, picture.exif, "PNG") == []


@pytest.mark.parametrize(("kind", "name"), [("JPEG2000", "a.jp2"), ("GIF", "a.gif"), ("AVIF", "a.avif")])
def test_further_formats_are_read(tmp_path, kind, name):
    if kind == "AVIF" and util.find_spec("PIL._avif") is None:
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypavif\0\0\0\0avifmif1")
        with pytest.raises(OSEDiffError, match=r"a\.avif is an AVIF picture, which needs Pillow"):
            read_image(tmp_path / name)
        return
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    Image.fromarray(flat).save(tmp_path / name, kind)
    assert (
        read_image(tmp_path / name).rgb.int() - torch.tensor([200, 100, 50]).view(1, 3, 1, 1)
    ).abs().max() <= 3


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"msf1"])
def test_heic_names_what_to_install(tmp_path, monkeypatch, brand):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic")
    with pytest.raises(
        OSEDiffError, match=r"a\.heic is a HEIC picture, which needs a plugin: pip install pillow-heif"
    ):
        read_image(tmp_path / "a.heic")


def test_avif_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x18ftypavif\0\0\0\0avifmif1")
    with pytest.raises(OSEDiffError, match=r"a\.avif is an AVIF picture, which needs Pillow 11\.3"):
        read_image(tmp_path / "a.avif")


def jp2_with_colours(box):
    """A JPEG 2000 file whose colour box is another one."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), (120, 180, 90), np.uint8)).save(buffer, "JPEG2000")
    content = buffer.getvalue()
    at = content.index(b"colr") - 4
    old = int.from_bytes(content[at : at + 4], "big")
    header = content.index(b"jp2h") - 4
    length = int.from_bytes(content[header : header + 4], "big") - old + len(box) + 8
    box = struct.pack(">I", len(box) + 8) + b"colr" + box
    content = content[:at] + box + content[at + old :]
    return content[:header] + struct.pack(">I", length) + content[header + 4 :]


@pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 11, reason="the OpenJPEG of older Pillows refuses such a profile"
)
def test_jpeg_2000_with_a_profile_is_converted():
    from .test_colour_profiles import WIDE, rgb_profile

    plain = (
        decode_image(jp2_with_colours(b"\1\0\0" + struct.pack(">I", 16)), "a.jp2").rgb.float().mean((0, 2, 3))
    )
    wide = decode_image(jp2_with_colours(b"\2\0\0" + rgb_profile(WIDE)), "a.jp2").rgb.float().mean((0, 2, 3))
    assert plain.tolist() == [120, 180, 90]
    assert plain[0] - wide[0] > 20
    with pytest.raises(OSEDiffError, match="JPEG 2000 in colour space 14"):
        decode_image(jp2_with_colours(b"\1\0\0" + struct.pack(">I", 14)), "a.jp2")


@pytest.mark.skipif(util.find_spec("PIL._avif") is None, reason="this Pillow has no AVIF")
@pytest.mark.parametrize(
    ("points", "says"), [((9, 16), "PQ"), ((9, 18), "HLG"), ((12, 13), None), ((1, 1), "")]
)
def test_avif_in_other_colours(points, says):
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), (120, 180, 90), np.uint8)).save(buffer, "AVIF", quality=100)
    content = buffer.getvalue()
    at = content.index(b"colrnclx") + 8
    content = content[:at] + struct.pack(">HH", *points) + content[at + 4 :]
    if says:
        with pytest.raises(OSEDiffError, match=rf"a\.avif is a high dynamic range picture \({says}\)"):
            decode_image(content, "a.avif")
        return
    pixel = np.array([[[120, 180, 90]]], np.uint8)
    want = from_code_points(*points, full_range=True).to_srgb(pixel)[0, 0] if says is None else pixel[0, 0]
    assert np.abs(decode_image(content, "a.avif").rgb[0, :, 4, 4].numpy().astype(int) - want).max() <= 3

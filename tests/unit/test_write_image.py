"""Writing pictures: rounded, tagged sRGB, with honest EXIF, whole or not at all."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from osediff_core import whole_files
from osediff_core.errors import OSEDiffError
from osediff_core.pictures.exif import resized_exif
from osediff_core.pictures.files import check_target
from osediff_core.pictures.images import read_image, write_image

CAMERA, PLACE = 0x8769, 0x8825
SUFFIXES = [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"]


@pytest.fixture
def sr():
    """Values on no 8-bit level: (1, 3, 24, 40) in [0, 1], smooth so that JPEG is close."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 24), torch.linspace(0, 1, 40), indexing="ij")
    return torch.stack([y, x, (x + y) / 2])[None]


def levels(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def photograph(path, orientation=6):
    """A JPEG as cameras make them: turned, with a thumbnail, a maker's note, a place and stale sizes."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x8298] = "Maker", orientation, "Somebody"
    exif[0x0100], exif[0x0101] = 99, 98
    exif[CAMERA] = {
        0x829A: 0.01,
        0x9003: "2020:02:02 12:00:00",
        0x927C: b"note",
        0xA001: 2,
        0xA002: 99,
        0xA003: 98,
    }
    exif[PLACE] = {1: "N", 2: (50.0, 30.0, 0.0)}
    block = exif.tobytes()
    # The thumbnail is a second directory; Pillow writes none, so the pointer after the first is set by hand.
    count = int.from_bytes(block[14:16], "big" if block[6:8] == b"MM" else "little")
    order = "big" if block[6:8] == b"MM" else "little"
    second = len(block) - 6
    entries = [(0x0201, 4, second + 30), (0x0202, 4, 20)]
    directory = len(entries).to_bytes(2, order)
    for tag, kind, value in entries:
        directory += (
            tag.to_bytes(2, order)
            + kind.to_bytes(2, order)
            + (1).to_bytes(4, order)
            + value.to_bytes(4, order)
        )
    at = 16 + 12 * count
    block = block[:at] + second.to_bytes(4, order) + block[at + 4 :] + directory + bytes(4) + b"thumbnail" * 3
    Image.new("RGB", (16, 8), "red").save(path, exif=block)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_rounds(tmp_path, sr, suffix):
    path = tmp_path / f"a{suffix}"
    write_image(path, sr)
    apart = levels(path) - sr[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(apart).max() <= (4 if suffix.startswith(".jp") else 0.5001)
    assert abs(apart.mean()) < 0.1  # truncation would be at -0.5
    assert os.listdir(tmp_path) == [path.name]


def test_rounding_is_not_the_published_truncation(tmp_path):
    write_image(tmp_path / "a.png", torch.full((1, 3, 4, 4), 99.7 / 255))
    assert (levels(tmp_path / "a.png") == 100).all()


def test_values_outside_are_clamped(tmp_path):
    write_image(tmp_path / "a.png", torch.tensor([-0.5, 0.0, 1.7]).view(1, 3, 1, 1))
    assert levels(tmp_path / "a.png").tolist() == [[[0, 0, 255]]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_saved(tmp_path, sr, value):
    sr[0, 1, 2, 3] = value
    with pytest.raises(OSEDiffError, match="not finite"):
        write_image(tmp_path / "a.png", sr)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s != ".bmp"])
def test_tagged_srgb(tmp_path, sr, suffix):
    path = tmp_path / f"a{suffix}"
    write_image(path, sr)
    with Image.open(path) as image:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(profile)


def test_the_same_picture_gives_the_same_bytes(tmp_path, sr, monkeypatch):
    write_image(tmp_path / "a.png", sr)
    stamp = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    stamp[24:36] = bytes([7, 200] + [1] * 10)
    monkeypatch.setattr(ImageCms.ImageCmsProfile, "tobytes", lambda self: bytes(stamp))
    write_image(tmp_path / "b.png", sr)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_alpha_is_kept(tmp_path, sr, suffix):
    alpha = torch.arange(24 * 40).remainder(256).to(torch.uint8).view(1, 1, 24, 40)
    write_image(tmp_path / f"a{suffix}", sr, alpha)
    back = read_image(tmp_path / f"a{suffix}")
    assert torch.equal(back.alpha, alpha)
    assert torch.equal(back.rgb.where(alpha > 0, 0), (sr * 255).round().to(torch.uint8).where(alpha > 0, 0))


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_alpha_is_laid_on_white_where_there_is_none(tmp_path, sr, suffix, caplog):
    alpha = torch.full((1, 1, 24, 40), 255, dtype=torch.uint8)
    write_image(tmp_path / f"solid{suffix}", sr, alpha)
    assert caplog.text == ""
    alpha[..., :16] = 0
    write_image(tmp_path / f"a{suffix}", sr, alpha)
    assert levels(tmp_path / f"a{suffix}")[:, :8].min() >= 250
    assert "white" in caplog.text


def test_jpeg_keeps_the_resolution_of_colours_and_quality_changes_size(tmp_path):
    stripes = torch.zeros(1, 3, 32, 32)
    stripes[:, 0, :, ::2], stripes[:, 2, :, 1::2] = 1, 1
    write_image(tmp_path / "a.jpg", stripes)
    assert np.abs(levels(tmp_path / "a.jpg") - stripes[0].permute(1, 2, 0).numpy() * 255).max() < 40
    for suffix in (".jpg", ".webp"):
        write_image(tmp_path / f"best{suffix}", stripes)
        write_image(tmp_path / f"small{suffix}", torch.rand(1, 3, 64, 64), quality=5)
        write_image(tmp_path / f"large{suffix}", torch.rand(1, 3, 64, 64), quality=95)
        assert (tmp_path / f"small{suffix}").stat().st_size < (tmp_path / f"large{suffix}").stat().st_size


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_exif_is_kept_where_it_stays_true(tmp_path, sr, suffix):
    picture = read_image(photograph(tmp_path / "in.jpg"))
    assert b"thumbnail" in (tmp_path / "in.jpg").read_bytes()
    assert picture.rgb.shape == (1, 3, 16, 8)
    write_image(tmp_path / f"out{suffix}", sr, exif=picture.exif)
    with Image.open(tmp_path / f"out{suffix}") as image:
        exif = image.getexif()
        camera, place = exif.get_ifd(CAMERA), exif.get_ifd(PLACE)
        image.load()
        assert image.size == (40, 24)
    assert (exif[0x010F], exif[0x8298]) == ("Maker", "Somebody")
    assert exif.get(0x0112, 1) == 1
    assert (exif.get(0x0100, 40), exif.get(0x0101, 24)) == (40, 24)
    assert (camera[0xA001], camera[0xA002], camera[0xA003]) == (1, 40, 24)
    assert camera[0x9003] == "2020:02:02 12:00:00"
    assert 0x927C not in camera
    assert tuple(map(float, place[2])) == (50, 30, 0)
    assert b"thumbnail" not in (tmp_path / f"out{suffix}").read_bytes()


def test_no_exif_from_a_picture_that_has_none(tmp_path, sr):
    Image.new("RGB", (8, 8)).save(tmp_path / "in.tif")
    assert read_image(tmp_path / "in.tif").exif is None
    write_image(tmp_path / "a.png", sr)
    with Image.open(tmp_path / "a.png") as image:
        assert not image.getexif()


def test_an_exif_block_too_long_for_jpeg_is_left_out(tmp_path, caplog):
    exif = Image.Exif()
    exif[0x010E] = "x" * 70000
    assert resized_exif(exif.tobytes(), (8, 8), "a.jpg") is None
    assert "too long" in caplog.text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_loses_nothing(tmp_path, sr, monkeypatch, number):
    """The disk fills up while the file is written: a sentence, no remains, and the old file is as it was."""
    (tmp_path / "a.png").write_bytes(b"old")

    def full(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(whole_files.os, "fsync", full)
    with pytest.raises(OSEDiffError, match=rf"a\.png could not be written: {os.strerror(number)}"):
        write_image(tmp_path / "a.png", sr)
    assert os.listdir(tmp_path) == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_an_interrupt_leaves_no_remains(tmp_path, sr, monkeypatch):
    def stop(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(whole_files.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "a.png", sr)
    assert os.listdir(tmp_path) == []


def test_the_name_may_be_as_long_as_the_system_allows(tmp_path, sr):
    write_image(tmp_path / ("x" * 251 + ".png"), sr)
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_the_file_has_the_usual_mode(tmp_path, sr):
    (tmp_path / "usual").touch()
    write_image(tmp_path / "a.png", sr)
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("a", None, r"names no format.*\.png"),
        ("a.gif", None, "names no format"),
        ("none/a.png", None, "there is no folder"),
        ("folder.png", None, "is a folder"),
        ("file/a.png", None, "there is no folder|cannot write"),
        ("a.webp", (100, 16384), "WEBP holds at most 16383 pixels a side.*16384x100"),
        ("a.jpg", (65501, 10), "JPEG holds at most"),
    ],
)
def test_targets_that_cannot_be_written(tmp_path, name, size, reason):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSEDiffError, match=reason):
        check_target(tmp_path / name, size)


def test_a_folder_that_refuses_is_found_before_any_work(tmp_path, monkeypatch):
    def refuse(self, *args, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    check_target(tmp_path / "a.png", (65500, 10))
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OSEDiffError, match=r"cannot write into the folder .*: Permission denied"):
        check_target(tmp_path / "a.png")

"""16 bits a sample: kept from the file to the file where format and colours allow it."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from osediff_core import read_image, restore, write_image
from osediff_core.commands.restore_files import Settings, restore_files
from osediff_core.pictures.blocks import Notes
from osediff_core.pictures.jobs import Job
from osediff_core.pictures.results import made
from osediff_core.sizes import Size

SHAPE = (1, 3, 9, 70)


@pytest.fixture
def colours():
    """(1, 3, 9, 70) in [0, 1], on no level of 8 bits; higher than what is compressed at once if turned."""
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_what_is_written_is_read(tmp_path, colours, ending, grey, alpha, turned):
    path = tmp_path / f"a.{ending}"
    sr = colours.transpose(2, 3) if turned else colours
    sr = sr[:, :1].expand(-1, 3, -1, -1) if grey else sr
    mask = torch.randint(1, 256, (1, 1, *sr.shape[2:]), dtype=torch.uint8) if alpha else None
    notes = Notes(dpi=(300, 300), made="how")
    write_image(path, sr, mask, grey=grey, deep=True, notes=notes)
    found = read_image(path, full=True)
    assert found.deep
    assert found.grey == (grey and not (alpha and ending == "tif"))
    assert (found.rgb - sr).abs().max() <= 0.51 / 65535
    assert (found.alpha is None) == (not alpha)
    assert mask is None or torch.equal(found.alpha, mask)
    assert found.notes.dpi == pytest.approx((300, 300), abs=0.1)
    assert made(path) == "how"
    eight = read_image(path)
    assert not eight.deep
    assert (eight.rgb.float() - sr * 255).abs().max() <= 0.51


def test_pillow_reads_grey_of_16_bits(tmp_path, colours):
    for ending in ("png", "tif"):
        write_image(tmp_path / f"a.{ending}", colours[:, :1].expand(-1, 3, -1, -1), grey=True, deep=True)
        with Image.open(tmp_path / f"a.{ending}") as image:
            assert image.mode.startswith("I")
            wanted = np.rint(colours[0, 0].numpy() * 65535.0)
            assert np.array_equal(np.asarray(image), wanted)


def test_the_header_says_16_bits_of_colour(tmp_path, colours):
    write_image(tmp_path / "a.png", colours, deep=True)
    assert struct.unpack(">IIBB", (tmp_path / "a.png").read_bytes()[16:26]) == (70, 9, 16, 2)
    with Image.open(tmp_path / "a.png") as image:  # decodes it to 8 bits, rounded down
        assert np.abs(np.asarray(image) - colours[0].permute(1, 2, 0).numpy() * 255).max() < 1.01
        assert "icc_profile" in image.info
    with Image.open(tmp_path / "a.png") as image:
        image.verify()


def test_turned_pictures_are_turned_in_full(tmp_path, colours):
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.rint(colours[0, 0].numpy() * 65535.0).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    found = read_image(tmp_path / "a.png", full=True)
    assert found.rgb.dtype == torch.float32
    wanted = np.rot90(values, -1) / 65535
    assert np.abs(found.rgb[0, 2].numpy() - wanted).max() < 1e-6


def test_a_profile_is_applied_in_8_bits_unless_it_changes_nothing(tmp_path, colours):
    values = np.rint(colours[0, 0].numpy() * 65535.0).astype(np.uint16)
    write_image(tmp_path / "a.tif", colours, deep=True)
    assert read_image(tmp_path / "a.tif", full=True).rgb.dtype == torch.float32  # ours, sRGB
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(values).save(tmp_path / "b.png", icc_profile=lab[:40] + b"junk")
    found = read_image(tmp_path / "b.png", full=True)
    assert found.deep
    assert found.rgb.dtype == torch.float32  # a broken profile is passed over


@pytest.mark.parametrize(("ending", "bits"), [("png", 16), ("tif", 16), ("jpg", 8)])
def test_16_bits_go_through_a_restoration(model, tmp_path, colours, ending, bits):
    small = colours[..., :12]
    write_image(tmp_path / "a.png", small, deep=True)
    job = Job(tmp_path / "a.png", tmp_path / f"b.{ending}")
    assert list(restore_files(model, [job], Settings(Size(value=2)), lambda job: None)) == [(job, None)]
    stored = torch.round(small * 65535) / 65535
    wanted = restore(model, stored, scale=2)
    found = read_image(job.target, full=True)
    assert found.deep == (bits == 16)
    if bits == 16:
        assert (found.rgb - wanted).abs().max() <= 0.6 / 65535
    assert restore(model, tmp_path / "a.png", scale=2, to=tmp_path / "c.png") == tmp_path / "c.png"
    assert (read_image(tmp_path / "c.png", full=True).rgb - wanted).abs().max() <= 0.6 / 65535

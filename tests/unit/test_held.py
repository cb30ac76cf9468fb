"""`restore` gives back what it was given: a path, Pillow's picture, an array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core import OSEDiffError, read_image, restore

PIXELS = np.random.default_rng(3).integers(0, 256, (6, 5, 4), np.uint8)


@pytest.fixture(scope="module")
def wanted(model):
    """What tensors give, as bytes (H, W, 3)."""
    lq = torch.from_numpy(PIXELS[None, ..., :3]).permute(0, 3, 1, 2)
    return restore(model, lq, scale=2, detail=0.5, dtype=torch.uint8)[0].permute(1, 2, 0).numpy()


def same(model, picture, **options):
    return restore(model, picture, scale=2, detail=0.5, **options)


def test_pillow(model, wanted):
    found = same(model, Image.fromarray(PIXELS[..., :3]))
    assert np.array_equal(np.asarray(found), wanted)
    clear = same(model, Image.fromarray(PIXELS))
    assert (clear.mode, clear.size) == ("RGBA", (10, 12))
    grey = same(model, Image.fromarray(PIXELS[..., 0]))
    assert (grey.mode, grey.size) == ("L", (10, 12))


def test_a_pillow_picture_is_turned_upright(model):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(PIXELS[..., :3])
    image.getexif().update(exif)
    assert same(model, image).size == (12, 10)


def test_arrays_of_every_layout_and_number(model, wanted):
    rgb = PIXELS[..., :3]
    tensor = torch.from_numpy(rgb[None] / 255).permute(0, 3, 1, 2).float()
    finer = restore(model, tensor, scale=2, detail=0.5)[0].permute(1, 2, 0).numpy()  # not rounded on the way
    assert np.array_equal(same(model, rgb), wanted)
    two = same(model, np.stack([rgb, rgb]))
    assert (two == wanted).all()
    for kind in (np.float32, np.float64):
        found = same(model, (rgb / 255).astype(kind))
        assert found.dtype == kind
        assert np.abs(found - finer).max() < 1e-5
    deep = same(model, rgb.astype(np.uint16) * 257)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 65535 - finer).max() < 2e-5
    assert len(np.unique(deep % 257)) > 50  # finer than 8 bit
    assert same(model, rgb[..., 0]).shape == (12, 10)
    assert same(model, rgb[..., :1]).shape == (12, 10, 1)
    clear = same(model, PIXELS)
    assert clear.shape == (12, 10, 4)
    assert clear.dtype == np.uint8
    assert same(model, (PIXELS / 255).astype(np.float32), middle=(8, 8)).shape == (8, 8, 4)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_gives_the_path_of_its_result(model, wanted, tmp_path, kind):
    Image.fromarray(PIXELS[..., :3]).save(tmp_path / "a.png")
    path = kind(tmp_path / "a.png")
    found = same(model, path)
    assert type(found) is type(path)
    assert Path(found) == tmp_path / "a_restored.png"
    assert np.array_equal(read_image(found).rgb[0].permute(1, 2, 0), wanted)
    with pytest.raises(OSEDiffError, match=r"a_restored\.png exists"):
        same(model, path)
    assert same(model, path, to=tmp_path / "b.webp") == kind(tmp_path / "b.webp")
    for to, words in (("a.png", "itself"), ("none/b.png", "no folder"), ("b.txt", "no format")):
        with pytest.raises(OSEDiffError, match=words):
            same(model, path, to=tmp_path / to)


def test_mistakes(model):
    with pytest.raises(OSEDiffError, match="where the result of a path goes"):
        same(model, PIXELS, to="a.png")
    for wrong, words in (
        (PIXELS.astype(int), "int64"),
        (np.zeros((2, 2, 5)), "channels"),
        (np.zeros(3), "channels"),
    ):
        with pytest.raises(OSEDiffError, match=words):
            same(model, wrong)


def test_sixteen_bits_of_pillow_and_of_either_order_of_bytes(model):
    deep = PIXELS[..., 0].astype(np.uint16) * 257
    wanted = same(model, deep)
    found = same(model, Image.fromarray(deep))
    assert found.mode == "I;16"
    assert np.array_equal(np.asarray(found), wanted)
    swapped = same(model, deep.astype(">u2"))
    assert swapped.dtype == ">u2"
    assert np.array_equal(swapped, wanted)


@pytest.mark.parametrize("path", ["", ".", "none.png", Path()])
def test_what_is_no_file_is_told(model, path):
    with pytest.raises(OSEDiffError, match="there is no picture file"):
        same(model, path)


def test_a_tensor_goes_nowhere(model, tmp_path):
    with pytest.raises(OSEDiffError, match="result of a path"):
        same(model, torch.zeros(1, 3, 4, 4), to=tmp_path / "a.png")

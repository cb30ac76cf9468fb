"""A picture of one channel comes out grey, and is written as grey where the format can."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from osediff_core import restore
from osediff_core.color import is_grey
from osediff_core.commands.restore_files import Settings, restore_files
from osediff_core.pictures.images import read_image, write_image
from osediff_core.pictures.jobs import Job
from osediff_core.sizes import Size

LEVELS = np.random.default_rng(0).integers(0, 256, (12, 16)).astype(np.uint8)


def grey_palette():
    image = Image.fromarray(LEVELS % 4, "P")
    image.putpalette([9, 9, 9, 80, 80, 80, 160, 160, 160, 250, 250, 250])
    return image


def colour_palette():
    image = Image.fromarray(LEVELS % 4, "P")
    image.putpalette([9, 9, 9, 80, 80, 80, 160, 160, 160, 250, 250, 240])
    return image


def with_alpha():
    return Image.merge("LA", [Image.fromarray(LEVELS), Image.fromarray(LEVELS[::-1].copy())])


PICTURES = {
    "bits.png": lambda: Image.fromarray(LEVELS > 100),
    "bits.tif": lambda: Image.fromarray(LEVELS > 100),
    "grey.png": lambda: Image.fromarray(LEVELS),
    "grey.jpg": lambda: Image.fromarray(LEVELS),
    "grey.bmp": lambda: Image.fromarray(LEVELS),
    "deep.png": lambda: Image.fromarray(LEVELS.astype(np.uint16) * 250),
    "deep.tif": lambda: Image.fromarray(LEVELS.astype(np.uint16) * 250),
    "float.tif": lambda: Image.fromarray(LEVELS.astype(np.float32) / 255),
    "alpha.png": with_alpha,
    "alpha.tif": with_alpha,
    "palette.png": grey_palette,
    "palette.gif": grey_palette,
}


def restored(model, source, target, **settings):
    results = list(
        restore_files(model, [Job(source, target)], Settings(size=Size(value=2), **settings), lambda _: None)
    )
    assert results[0][1] is None
    return Image.open(target)


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("color", ["adain", "wavelet", "none"])
def test_one_channel_in_one_channel_out(tmp_path, model, name, color):
    PICTURES[name]().save(tmp_path / name)
    out = restored(model, tmp_path / name, tmp_path / "out.png", color=color)
    deep = name.startswith(("deep", "float"))
    assert out.mode == ("LA" if "alpha" in name else "I;16" if deep else "L")
    assert "icc_profile" not in out.info  # it is of three channels
    assert out.size == (32, 24)
    assert np.asarray(out)[..., :1].std() > 1


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(".png", "LA"), (".tif", "LA"), (".webp", "RGBA"), (".jpg", "L"), (".bmp", "L")],
)
def test_every_format_is_grey_as_far_as_it_can(tmp_path, model, suffix, mode):
    with_alpha().save(tmp_path / "a.png")
    out = restored(model, tmp_path / "a.png", tmp_path / f"out{suffix}")
    assert out.mode == mode
    rgb = np.asarray(out.convert("RGB" if mode[0] == "R" else "L").convert("RGB")).astype(int)
    assert (rgb.max(-1) == rgb.min(-1)).all()


def test_written_grey_is_what_colour_would_be(tmp_path):
    sr = torch.rand(1, 1, 9, 7, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    for suffix in (".png", ".tif", ".webp", ".bmp"):
        write_image(tmp_path / f"grey{suffix}", sr, grey=True)
        write_image(tmp_path / f"colour{suffix}", sr)
        grey, colour = (read_image(tmp_path / f"{name}{suffix}") for name in ("grey", "colour"))
        assert torch.equal(grey.rgb, colour.rgb)
        assert (grey.grey, colour.grey) == (suffix != ".webp", False)


def test_a_profile_tints_no_grey(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(LEVELS).save(tmp_path / "a.png", icc_profile=profile)
    picture = read_image(tmp_path / "a.png")
    assert picture.grey
    assert is_grey(picture.rgb)


def test_colour_stays_colour(tmp_path, model):
    colour_palette().save(tmp_path / "a.png")
    assert restored(model, tmp_path / "a.png", tmp_path / "out.png").mode == "RGB"
    Image.fromarray(LEVELS).convert("RGB").save(tmp_path / "three.png")  # neutral, and held as three channels
    three = restored(model, tmp_path / "three.png", tmp_path / "three_out.png")
    assert three.mode == "RGB"
    assert is_grey(torch.from_numpy(np.array(three)).movedim(-1, 0)[None])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("color", ["adain", "wavelet", "none"])
def test_each_picture_of_a_batch_is_grey_or_not(model, dtype, color):
    g = torch.Generator().manual_seed(1)
    colour = torch.randint(0, 256, (1, 3, 10, 12), generator=g).to(torch.uint8)
    lq = torch.cat([colour, colour[:, :1].expand(-1, 3, -1, -1)])
    lq = lq / 255 if dtype == torch.float32 else lq
    out = restore(model, lq, scale=2, color=color)
    assert not is_grey(out[:1])
    assert is_grey(out[1:])
    assert (out[1].amax(0) == out[1].amin(0)).all()
    assert torch.equal(out[:1], restore(model, lq[:1], scale=2, color=color))


def test_one_pixel_of_colour_is_colour():
    image = torch.full((1, 3, 4, 4), 7, dtype=torch.uint8)
    assert is_grey(image)
    image[0, 1, 2, 3] = 8
    assert not is_grey(image)
    assert is_grey(torch.full((1, 3, 4, 4), 0.3) + torch.tensor([0.0, 1e-5, 0.0]).view(1, 3, 1, 1))

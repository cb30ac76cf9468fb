"""What is under alpha 0 has no influence on anything that can be seen."""

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core import restore
from osediff_core.color import match_color
from osediff_core.commands.restore_files import Settings, restore_files
from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import read_image
from osediff_core.pictures.jobs import Job
from osediff_core.resize import resize_alpha
from osediff_core.sizes import Size
from osediff_core.transparency import HIDDEN_BELOW, color_weight, fill_hidden

SIDE = 40
COLOUR = torch.tensor([240, 200, 60], dtype=torch.uint8)


def disc(side=SIDE, radius=14.0, soft=1.0):
    """Alpha of a disc with a soft rim, uint8 (1, 1, side, side)."""
    at = torch.arange(side) - (side - 1) / 2
    distance = (at[:, None].square() + at.square()).sqrt()
    return ((radius - distance) / soft + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)[None, None]


def picture(alpha, hidden, seed=3):
    """Uint8 (1, 3, H, W): the same soft texture where alpha is above 0, something else where it is 0."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randint(60, 200, (1, 3, 8, 8), generator=g).to(torch.uint8)
    rgb = coarse.repeat_interleave(5, 2).repeat_interleave(5, 3)
    height, width = alpha.shape[-2:]
    other = {
        "black": torch.zeros_like(rgb),
        "white": torch.full_like(rgb, 255),
        "noise": torch.randint(0, 256, rgb.shape, generator=g).to(torch.uint8),
    }[hidden]
    return torch.where(alpha > 0, rgb, other)[..., :height, :width]


KINDS = ("black", "white", "noise")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_filling_knows_what_is_visible_alone(dtype):
    alpha = disc()
    images = [picture(alpha, hidden) for hidden in KINDS]
    if dtype == torch.float32:
        images = [image / 255 for image in images]
        images.append(images[0].where(alpha > 0, torch.nan))
    filled = [fill_hidden(image, alpha) for image in images]
    assert all(torch.equal(one, filled[0]) for one in filled)
    assert filled[0].dtype == dtype
    assert torch.equal(filled[0].where(alpha > 0, 0), images[0].where(alpha > 0, 0))
    assert torch.equal(fill_hidden(filled[0], alpha), filled[0])
    assert not torch.equal(images[0], images[1])


def test_one_colour_goes_on_everywhere_whatever_the_size():
    for height, width in ((1, 1), (1, 9), (7, 1), (13, 31), (64, 64)):
        image = torch.zeros(1, 3, height, width, dtype=torch.uint8)
        alpha = torch.zeros(1, 1, height, width, dtype=torch.uint8)
        alpha[..., height // 2, width // 3] = 9
        image[..., height // 2, width // 3] = COLOUR
        assert (fill_hidden(image, alpha) == COLOUR.view(1, 3, 1, 1)).all()


def test_the_nearest_colours_go_on():
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    image[:, 0, :, :8], image[:, 2, :, 24:] = 255, 255
    alpha = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    alpha[..., :8], alpha[..., 24:] = 255, 255
    filled = fill_hidden(image, alpha)
    assert filled[0, :, 16, 9].tolist()[0] > 200 > 55 > filled[0, :, 16, 9].tolist()[2]
    assert filled[0, :, 16, 22].tolist()[2] > 200 > 55 > filled[0, :, 16, 22].tolist()[0]


def test_faint_pixels_say_less_than_solid_ones():
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[..., :4], image[..., 4, 4] = 200, 0
    alpha = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    alpha[..., :4], alpha[..., 4, 4] = 255, 1
    assert fill_hidden(image, alpha)[..., 5, 5].min() > 150


def test_nothing_visible_is_black_and_everything_visible_is_left_alone():
    image = picture(disc(), "noise")
    assert fill_hidden(image, torch.zeros_like(image[:, :1])).max() == 0
    assert fill_hidden(image, torch.ones_like(image[:, :1])) is image
    assert color_weight(torch.zeros_like(image[:, :1])) is None
    assert color_weight(torch.full_like(image[:, :1], 255)) is None


def test_alpha_below_half_a_level_is_none():
    image = torch.tensor([0.2, 0.9]).view(1, 1, 1, 2)
    alpha = torch.tensor([1.0, HIDDEN_BELOW * 0.9]).view(1, 1, 1, 2)
    assert fill_hidden(image, alpha).flatten().tolist() == pytest.approx([0.2, 0.2])
    assert fill_hidden(image, alpha * 0 + HIDDEN_BELOW * 1.1) is image


@pytest.mark.parametrize("method", ["adain", "wavelet"])
def test_colours_are_matched_by_what_is_visible(method):
    """Visible colours come out as where nothing else is there; without weights they do not."""
    g = torch.Generator().manual_seed(0)
    reference, sr = torch.rand(1, 3, 48, 48, generator=g) * 0.4, torch.rand(1, 3, 48, 48, generator=g)
    weight = torch.zeros(1, 1, 48, 48)
    weight[..., 8:40, 8:40] = 1
    inner = (..., slice(8, 40), slice(8, 40))
    outs = []
    for other in (0.0, 1.0):
        both = [torch.where(weight > 0, image, other) for image in (sr, reference)]
        outs.append(match_color(*both, method, weight)[inner])
    alone = match_color(sr[inner], reference[inner], method)
    assert (outs[0] - outs[1]).abs().max() < 1e-5
    assert (outs[0].mean((2, 3)) - alone.mean((2, 3))).abs().max() < 0.02  # at the edges wavelet sees less
    mixed = [torch.where(weight > 0, sr, 0.0), torch.where(weight > 0, reference, 1.0)]
    assert (match_color(*mixed, method)[inner] - outs[0]).abs().max() > 0.05


@pytest.mark.parametrize("method", ["adain", "wavelet"])
def test_weights_of_one_are_no_weights(method):
    g = torch.Generator().manual_seed(0)
    sr, reference = torch.rand(2, 3, 40, 40, generator=g), torch.rand(2, 3, 40, 40, generator=g) * 0.3
    out = match_color(sr, reference, method, torch.ones(2, 1, 40, 40))
    assert (out - match_color(sr, reference, method)).abs().max() < 1e-3
    column = torch.zeros(2, 1, 40, 40)
    column[..., 7] = 1
    assert match_color(sr, reference, method, column).isfinite().all()


@pytest.mark.parametrize("color", ["adain", "wavelet", "none"])
def test_a_restored_picture_does_not_know_what_was_hidden(model, color):
    alpha = disc()
    outs = [restore(model, picture(alpha, hidden), alpha=alpha, scale=2, color=color) for hidden in KINDS]
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])
    without = [restore(model, picture(alpha, hidden), scale=2, color=color) for hidden in KINDS]
    assert (without[0] - without[2]).abs().max() > 0.1
    floats = picture(alpha, "black") / 255
    floats = floats.where(alpha > 0, torch.nan)
    assert (restore(model, floats, alpha=alpha / 255, scale=2, color=color) - outs[0]).abs().mean() < 0.02


def test_an_opaque_alpha_changes_no_bit(model):
    lq = picture(disc(), "noise")
    solid = torch.full_like(lq[:, :1], 255)
    assert torch.equal(restore(model, lq, alpha=solid, scale=2), restore(model, lq, scale=2))
    both = restore(model, lq.expand(2, -1, -1, -1), alpha=torch.cat([solid, disc()]), scale=2)
    assert torch.equal(both[:1], restore(model, lq, scale=2))
    assert torch.equal(both[1:], restore(model, lq, alpha=disc(), scale=2))


def test_nothing_visible_is_restored_all_the_same(model):
    lq = picture(disc(), "noise")
    assert restore(model, lq, alpha=torch.zeros_like(lq[:, :1]), scale=2).isfinite().all()


@pytest.mark.parametrize(
    ("alpha", "says"),
    [
        (torch.ones(1, 1, SIDE, SIDE + 1), "is \\(B, 1, H, W\\), got"),
        (torch.ones(2, 1, SIDE, SIDE), "got \\(2, 1, 40, 40\\) for \\(1, 3, 40, 40\\)"),
        (torch.ones(SIDE, SIDE), "each image its own"),
        (np.ones((1, 1, SIDE, SIDE)), "got ndarray"),
        (torch.full((1, 1, SIDE, SIDE), torch.nan), "not numbers"),
        (torch.full((1, 1, SIDE, SIDE), 255.0), "rescale it"),
    ],
)
def test_a_wrong_alpha_is_a_sentence(model, alpha, says):
    with pytest.raises(OSEDiffError, match=says):
        restore(model, picture(disc(), "black"), alpha=alpha)


def hidden_file(path, rgba):
    """Write RGBA uint8 (H, W, 4) by the name's ending, hidden colours and all."""
    image = Image.fromarray(rgba)
    if path.name.startswith("grey"):
        image = Image.merge("LA", [image.getchannel("R"), image.getchannel("A")])
    image.save(path, **({"lossless": True, "exact": True} if path.suffix == ".webp" else {}))
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "grey.png", "grey.tif"])
def test_files_that_look_the_same_are_the_same(tmp_path, model, name):
    """And what is laid on white at the rim of a disc of one colour has nothing of black."""
    alpha, read, made = disc()[0, 0].numpy(), [], []
    for fill in (0, 255):
        rgba = np.full((SIDE, SIDE, 4), fill, np.uint8)
        rgba[alpha > 0, :3] = COLOUR.numpy()
        rgba[..., 3] = alpha
        (tmp_path / str(fill)).mkdir()
        source = hidden_file(tmp_path / str(fill) / name, rgba)
        read.append(read_image(source))
        target = tmp_path / str(fill) / "out.png"
        settings = Settings(size=Size(value=2))
        results = list(restore_files(model, [Job(source, target)], settings, lambda _: None))
        assert results[0][1] is None
        made.append(np.asarray(Image.open(target)))
    assert torch.equal(read[0].rgb, read[1].rgb)
    assert (made[0] == made[1]).all()
    visible = made[0][made[0][..., -1] > 0][:, :-1].astype(int)
    assert np.abs(visible - (COLOUR.numpy() if visible.shape[1] == 3 else int(COLOUR[0]))).max() <= 4
    assert (made[0][..., -1] == resize_alpha(disc(), (2 * SIDE, 2 * SIDE))[0, 0].numpy()).all()


def test_a_transparent_palette_entry_and_a_transparent_colour(tmp_path):
    indices = np.zeros((12, 12), np.uint8)
    indices[:, 6:] = 1
    image = Image.fromarray(indices, "P")
    image.putpalette([255, 0, 255, 10, 120, 30])
    for name, picture in (("p.png", image), ("rgb.png", image.convert("RGB")), ("p.gif", image)):
        key = (255, 0, 255) if picture.mode == "RGB" else 0
        picture.save(tmp_path / name, transparency=key)
        found = read_image(tmp_path / name)
        assert found.alpha[0, 0, 0].tolist() == [0] * 6 + [255] * 6
        assert (found.rgb == torch.tensor([10, 120, 30]).view(1, 3, 1, 1)).all()

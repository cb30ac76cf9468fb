import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core.errors import OSEDiffError
from osediff_core.resize import crop, pad_to_multiple, resize_alpha, resize_bicubic, target_size


@pytest.mark.parametrize(
    ("size", "scale", "target"),
    [
        ((1, 1), 4, (4, 4)),
        ((3, 5), 1.5, (5, 8)),
        ((3, 5), 1, (3, 5)),
        ((7, 1), 2.5, (18, 3)),
        ((5, 5), 1.1, (6, 6)),
    ],
)
def test_target_size_rounds_halves_up(size, scale, target):
    assert target_size(*size, scale) == target


@pytest.mark.parametrize("scale", [0, 0.99, -4, float("nan"), float("inf")])
def test_scales_that_cannot_be_are_sentences(scale):
    with pytest.raises(OSEDiffError, match="scale"):
        target_size(8, 8, scale)


@pytest.mark.parametrize(("size", "scale"), [((20, 24), 1e5), ((1, 1), 1e308), ((1, 1 << 18), 65537)])
def test_a_result_that_nothing_holds_is_refused_before_it_is_planned(size, scale):
    with pytest.raises(OSEDiffError, match="take a smaller scale"):
        target_size(*size, scale)
    assert target_size(1, 1 << 18, 256) == (256, 1 << 26)


def noise(*size):
    return (
        torch.randint(0, 2, (2, 3, *size), generator=torch.Generator().manual_seed(1)).to(torch.uint8) * 255
    )


@pytest.mark.parametrize(
    ("size", "target"), [((9, 7), (36, 28)), ((9, 7), (10, 30)), ((40, 50), (13, 9)), ((1, 1), (4, 4))]
)
def test_8_bit_images_are_resized_by_pillow_and_floats_stay_near(size, target):
    image = noise(*size)
    ours = resize_bicubic(image, target)
    for picture, out in zip(image, ours, strict=True):
        pillow = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize(
            target[::-1], Image.Resampling.BICUBIC
        )
        assert np.array_equal(out.permute(1, 2, 0).numpy(), np.asarray(pillow))
    assert (resize_bicubic(image / 255, target) * 255 - ours.float()).abs().max() <= 2


def test_floats_come_back_as_float32_in_range():
    out = resize_bicubic((noise(6, 6) / 255).half(), (24, 24))
    assert out.dtype == torch.float32
    assert out.min() == 0
    assert out.max() == 1


def test_alpha_is_resized_as_the_image_is():
    image = noise(5, 6)
    assert torch.equal(resize_alpha(image[:, :1], (20, 24)), resize_bicubic(image, (20, 24))[:, :1])


def test_padding_mirrors_then_repeats_at_the_right_and_the_bottom():
    x = torch.tensor([[[[1.0, 2, 3], [4, 5, 6]]]])
    padded = pad_to_multiple(x, 8)
    assert padded.shape == (1, 1, 8, 8)
    assert padded[0, 0, 0].tolist() == [1, 2, 3, 2, 1, 1, 1, 1]
    assert padded[0, 0, :, 0].tolist() == [1, 4, 1, 1, 1, 1, 1, 1]


def test_padding_does_nothing_to_a_multiple():
    x = torch.rand(1, 3, 16, 24)
    assert torch.equal(pad_to_multiple(x, 8), x)
    assert torch.equal(crop(x, (16, 24)), x)

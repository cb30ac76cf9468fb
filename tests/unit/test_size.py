"""The five ways to say how large a picture is to become, and the middle that covers a box."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from osediff_core import limits, restore
from osediff_core.errors import OSEDiffError
from osediff_core.resize import resize_bicubic, target_size
from osediff_core.sizes import Size

sides = st.integers(1, 3000)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        (Size(), (1920, 3416)),
        (Size("scale", 2.25), (1080, 1922)),  # what a step of 0.1 cannot say
        (Size("long side", 1920), (1079, 1920)),
        (Size("megapixels", 1.0), (750, 1334)),
        (Size("fit", box=(1080, 1920)), (1079, 1920)),
        (Size("cover", box=(1080, 1920)), (1080, 1920)),
    ],
)
def test_a_picture_of_854_x_480(size, wanted):
    assert size.of(480, 854)[1] == wanted


@given(sides, sides, st.integers(1, 4000), st.integers(1, 4000))
def test_fit_lies_within_the_box_and_cover_is_it(height, width, down, across):
    box = (down, across)
    try:
        scale, size = Size("fit", box=box).of(height, width)
    except OSEDiffError:
        assert height > down or width > across  # with no limit in the way: this result is within its box
    else:
        assert size[0] <= down
        assert size[1] <= across
        assert size[0] == down or size[1] == across
        assert size == target_size(height, width, scale)
    try:
        scale, size = Size("cover", box=box).of(height, width)
    except OSEDiffError:
        scale = max(down / height, across / width)
        assert scale < 1 or scale * height * scale * width > limits.RESULT_PIXELS  # before its sides are cut
    else:
        full = target_size(height, width, scale)
        assert size == box
        assert full[0] >= down
        assert full[1] >= across
        assert full[0] == down or full[1] == across


@given(sides, sides, st.integers(3000, 9000))
def test_the_long_side_is_exact(height, width, pixels):
    assert max(Size("long side", pixels).of(height, width)[1]) == pixels


def test_a_picture_that_would_shrink_is_named_with_its_size():
    with pytest.raises(OSEDiffError, match="300 x 200 is larger than long side 100"):
        Size("long side", 100).of(200, 300)
    with pytest.raises(OSEDiffError, match=r"at least 1, got 0\.5"):
        Size("scale", 0.5).of(200, 300)


def test_the_middle_is_cut_before_the_network_sees_it(model):
    lq = torch.rand(1, 3, 12, 20, generator=torch.Generator().manual_seed(3))
    scale, size = Size("cover", box=(31, 30)).of(12, 20)
    full = target_size(12, 20, scale)
    assert full == (31, 52)
    by_hand = resize_bicubic(lq, full)[..., :, 11:41]
    found = restore(model, lq, scale=scale, middle=size)
    assert found.shape == (1, 3, 31, 30)
    assert torch.equal(found, restore(model, by_hand, scale=1.0))
    assert not torch.equal(found, restore(model, lq, scale=scale)[..., :, 11:41])  # which sees the sides
    with pytest.raises(OSEDiffError, match="30 x 99 cannot be the middle"):
        restore(model, lq, scale=scale, middle=(99, 30))

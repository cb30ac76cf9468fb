"""Tiles cover every pixel, never more than once too often, and blending keeps what all tiles agree on."""

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from osediff_core.pipeline.unet_tiles import UNetPlan, grid, predict_in_tiles


@st.composite
def tilings(draw):
    tile = draw(st.integers(1, 20))
    return draw(st.integers(1, 70)), draw(st.integers(1, 70)), tile, draw(st.integers(0, tile - 1))


@settings(deadline=None, max_examples=150)
@given(tilings())
@example((1, 70, 8, 7))
@example((9, 70, 10, 9))
def test_tiles_cover_the_latent_and_lie_inside_it(tiling):
    height, width, tile, overlap = tiling
    seen = torch.zeros(height, width)
    boxes = grid(height, width, tile, overlap)
    for box in boxes:
        assert box.y + box.height <= height
        assert box.x + box.width <= width
        seen[box.y : box.y + box.height, box.x : box.x + box.width] += 1
    assert seen.min() == 1 or len(boxes) > 1
    assert seen.min() >= 1
    assert len({(box.height, box.width) for box in boxes}) == 1
    assert len(set(boxes)) == len(boxes)


def tiled(predict, z, tile, overlap, at_once=1):
    return predict_in_tiles(predict, lambda done: None, UNetPlan(*z.shape[-2:], tile, overlap, at_once), z)


@settings(deadline=None, max_examples=60)
@given(tilings(), st.integers(1, 20))
def test_blending_gives_back_what_the_tiles_agree_on(tiling, at_once):
    height, width, tile, overlap = tiling
    z = torch.rand(1, 2, height, width)
    out = tiled(lambda tiles: tiles * 2, z, tile, overlap, at_once)
    assert torch.allclose(out, z * 2, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(tilings())
def test_our_tiles_treat_a_turned_picture_alike(tiling):
    height, width, tile, overlap = tiling
    z = torch.rand(1, 1, height, width)

    def spread(tiles):
        return tiles + tiles.mean()

    out = tiled(spread, z, tile, overlap)
    turned = tiled(spread, z.transpose(2, 3).contiguous(), tile, overlap)
    assert torch.allclose(out, turned.transpose(2, 3), atol=1e-5)

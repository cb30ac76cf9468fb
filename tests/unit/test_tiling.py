import pytest
import torch

from benchmarks.gaussian import gaussian_window
from osediff_core.errors import OSEDiffError
from osediff_core.pipeline.unet_tiles import (
    Box,
    UNetPlan,
    blending_window,
    grid,
    predict_in_tiles,
    tile_starts,
)


def tiled(predict, z, tile, overlap, on_step=lambda done: None, at_once=1):
    """What is made of a latent by such tiles."""
    return predict_in_tiles(predict, on_step, UNetPlan(*z.shape[-2:], tile, overlap, at_once), z)


def share(weights, overlap):
    """How much a tile has in the blend with its next neighbour, from where that begins to the tile's end."""
    weights, tile = weights[:, 0], len(weights)
    ours, other = weights[tile - overlap :], weights[:overlap]
    return ours / (ours + other)


@pytest.mark.parametrize(("tile", "overlap"), [(24, 8), (32, 10), (64, 16), (96, 32), (384, 128)])
def test_tiles_go_over_into_each_other_along_their_whole_overlap(tile, overlap):
    ramp = share(blending_window(tile, 1, overlap), overlap)
    assert torch.allclose(ramp + ramp.flip(0), torch.ones(overlap, dtype=torch.float64))
    assert ramp[-1] < 0.01 < 0.99 < ramp[0]  # no step where a tile begins or ends
    steepest = torch.pi / 2 / overlap  # of a raised cosine over the overlap
    assert ramp.diff().abs().max() <= steepest
    assert ramp.diff().abs().max() > 0.9 * steepest
    for symmetric in (True, False):  # the control: what is published goes over within a fifth of it
        gaussian = gaussian_window(tile, 1, symmetric=symmetric)
        assert share(gaussian, overlap).diff().abs().max() > 2 * steepest


@pytest.mark.parametrize(("tile", "overlap"), [(8, 0), (8, 5), (8, 7), (1, 0), (5, 32)])
def test_every_weight_is_positive_whatever_the_overlap(tile, overlap):
    weights = blending_window(tile, tile, overlap)
    assert weights.min() > 0
    assert weights.max() <= 1
    assert torch.equal(weights, weights.flip(0))
    if overlap == 0:
        assert torch.equal(weights, torch.ones(tile, tile, dtype=torch.float64))


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "starts"),
    [
        (136, 72, 32, [0, 40, 64]),
        (40, 16, 4, [0, 12, 24]),
        (41, 16, 4, [0, 12, 24, 25]),
        (96, 96, 32, [0]),
        (5, 96, 32, [0]),
        (4, 2, 0, [0, 2]),
    ],
)
def test_tile_starts(length, tile, overlap, starts):
    assert tile_starts(length, tile, overlap) == starts


def test_tiles_are_used_only_above_the_tile_area():
    assert grid(64, 144, 96, 32) == [Box(0, 0, 64, 144)]
    assert len(grid(64, 145, 96, 32)) > 1
    assert grid(1000, 1000, None, -1) == [Box(0, 0, 1000, 1000)]


def test_columns_come_one_after_the_other():
    assert [(b.x, b.y) for b in grid(28, 40, 16, 4)] == [
        (0, 0),
        (0, 12),
        (12, 0),
        (12, 12),
        (24, 0),
        (24, 12),
    ]


def test_the_tile_shrinks_to_a_square_where_the_published_one_ends():
    assert grid(72, 136, 96, 32) == [Box(0, x, 72, 72) for x in (0, 40, 64)]


@pytest.mark.parametrize("side", [1, 2, 31, 32, 33, 64])
def test_a_picture_narrower_than_the_overlaps_gets_few_rectangles(side):
    boxes = grid(side, 20000, 96, 32)
    assert len(boxes) == 312
    assert {(b.height, b.width) for b in boxes} == {(side, 96)}
    assert [Box(x, y, w, h) for y, x, h, w in boxes] == grid(20000, side, 96, 32)


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (-3, 0), (16, 16), (16, 40), (16, -1)])
def test_impossible_tiles_are_sentences(tile, overlap):
    with pytest.raises(OSEDiffError, match="tile"):
        tiled(lambda tiles: tiles, torch.zeros(1, 4, 64, 64), tile, overlap)


def test_a_step_is_told_for_every_tile_and_may_stop_the_work():
    seen = []
    tiled(lambda tiles: tiles, torch.zeros(1, 4, 28, 40), 16, 4, seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]

    class StopError(Exception):
        pass

    def stop(done):
        if done == 2:
            raise StopError

    calls = []
    with pytest.raises(StopError):
        tiled(lambda tiles: calls.append(1) or tiles, torch.zeros(1, 4, 28, 40), 16, 4, stop)
    assert len(calls) == 2


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_the_function_gets_the_pixels_of_the_tiles_in_their_order(at_once):
    z = torch.arange(28 * 40.0).reshape(1, 1, 28, 40)
    seen = []
    tiled(lambda tiles: seen.extend(tiles.split(1)) or tiles, z, 16, 4, at_once=at_once)
    boxes = grid(28, 40, 16, 4)
    assert len(seen) == len(boxes) == 6
    for tile, (y, x, height, width) in zip(seen, boxes, strict=True):
        assert torch.equal(tile, z[..., y : y + height, x : x + width])


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_tiles_at_once_blend_to_the_same(at_once):
    z = torch.rand(2, 3, 21, 17, generator=torch.manual_seed(0))
    sizes, done = [], []

    def predict(tiles):
        sizes.append(len(tiles) // len(z))
        assert tiles.shape == (2 * sizes[-1], 3, 8, 8)
        return tiles * tiles.mean((1, 2, 3), keepdim=True)

    out = tiled(predict, z, 8, 3, done.append, at_once)
    one_by_one = tiled(lambda t: t * t.mean((1, 2, 3), keepdim=True), z, 8, 3)
    assert torch.allclose(out, one_by_one, atol=1e-6)
    assert not torch.allclose(out, z * z.mean(), atol=1e-2)
    assert max(sizes) == min(at_once, sum(sizes))
    assert done == [*range(1, sum(sizes) + 1)]


def test_one_tile_is_the_picture_as_it_is():
    z, seen, done = torch.rand(2, 3, 5, 9).bfloat16(), [], []
    out = tiled(lambda tiles: seen.append(tiles) or tiles * 2, z, None, 0, done.append)
    assert seen[0] is z
    assert torch.equal(out, (z * 2).float())
    assert done == [2]  # of each latent


def test_the_middle_of_a_tile_weighs_more_than_its_border():
    """Where two tiles overlap, the result leans to the one whose centre is nearer."""
    z = torch.arange(28.0).expand(1, 1, 16, 28)  # a tile's first pixel says where it lies
    out = tiled(lambda tiles: torch.full_like(tiles, tiles[0, 0, 0, 0]), z, 16, 4)
    row = out[0, 0, 8]
    assert row[0] == 0
    assert row[-1] == 12
    assert (row.diff() >= 0).all()
    assert row[13].item() == pytest.approx(12 - row[14].item(), abs=1e-4)

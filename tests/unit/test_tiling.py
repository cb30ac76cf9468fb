import pytest
import torch

from osediff_core.errors import OSEDiffError
from osediff_core.pipeline.tiling import Box, blending_window, gaussian_window, grid, tile_starts, tiled


def test_the_gaussian_is_symmetric_and_positive_and_the_published_one_is_not():
    ours, published = gaussian_window(24, 48), gaussian_window(24, 48, window="published")
    assert ours.dtype == torch.float64
    assert ours.min() > 0
    assert torch.equal(ours, ours.flip(0))
    assert torch.equal(ours, ours.flip(1))
    assert torch.equal(published, published.flip(1))
    assert not torch.allclose(published, published.flip(0))


def by_hand(n):
    i = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    return torch.exp(-(i**2) / n**2 / 0.02) / (0.02 * torch.pi) ** 0.5


@pytest.mark.parametrize(("height", "width"), [(96, 96), (96, 72), (24, 48)])
def test_the_gaussian_has_the_published_width(height, width):
    ours = blending_window(height, width, 32, "symmetric")
    assert torch.allclose(ours, by_hand(height)[:, None] * by_hand(width), rtol=1e-12, atol=0)


def share(tile, overlap, window):
    """How much a tile has in the blend with its next neighbour, from where that begins to the tile's end."""
    weights = blending_window(tile, 1, overlap, window)[:, 0]
    ours, other = weights[tile - overlap :], weights[:overlap]
    return ours / (ours + other)


@pytest.mark.parametrize(("tile", "overlap"), [(24, 8), (32, 10), (64, 16), (96, 32), (384, 128)])
def test_tiles_go_over_into_each_other_along_their_whole_overlap(tile, overlap):
    ramp = share(tile, overlap, "smooth")
    assert torch.allclose(ramp + ramp.flip(0), torch.ones(overlap, dtype=torch.float64))
    assert ramp[-1] < 0.01 < 0.99 < ramp[0]  # no step where a tile begins or ends
    steepest = torch.pi / 2 / overlap  # of a raised cosine over the overlap
    assert ramp.diff().abs().max() <= steepest
    assert ramp.diff().abs().max() > 0.9 * steepest
    for gaussian in ("symmetric", "published"):
        assert share(tile, overlap, gaussian).diff().abs().max() > 2 * steepest


@pytest.mark.parametrize(("tile", "overlap"), [(8, 0), (8, 5), (8, 7), (1, 0), (5, 32)])
def test_every_weight_is_positive_whatever_the_overlap(tile, overlap):
    weights = blending_window(tile, tile, overlap)
    assert weights.min() > 0
    assert weights.max() <= 1
    assert torch.equal(weights, weights.flip(0))
    if overlap == 0:
        assert torch.equal(weights, torch.ones(tile, tile, dtype=torch.float64))


def test_an_unknown_window_is_a_sentence():
    with pytest.raises(OSEDiffError, match="smooth, symmetric or published"):
        blending_window(8, 8, 2, "hann")


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
        tiled(lambda t, boxes: t, torch.zeros(1, 4, 64, 64), tile, overlap)


def test_progress_counts_every_tile_and_may_stop_the_work():
    seen = []
    tiled(lambda t, boxes: t, torch.zeros(1, 4, 28, 40), 16, 4, lambda *done: seen.append(done))
    assert seen == [(i, 6) for i in range(1, 7)]

    class StopError(Exception):
        pass

    def stop(done, total):
        if done == 2:
            raise StopError

    calls = []
    with pytest.raises(StopError):
        tiled(lambda t, boxes: calls.append(boxes) or t, torch.zeros(1, 4, 28, 40), 16, 4, stop)
    assert len(calls) == 2


def test_the_function_is_told_which_pixels_it_gets():
    z = torch.arange(28 * 40.0).reshape(1, 1, 28, 40)

    def check(tiles, boxes):
        (y, x, height, width) = boxes[0]
        assert len(boxes) == 1
        assert torch.equal(tiles, z[..., y : y + height, x : x + width])
        return tiles

    tiled(check, z, 16, 4)


def test_the_middle_of_a_tile_weighs_more_than_its_border():
    """Where two tiles overlap, the result leans to the one whose centre is nearer."""
    out = tiled(lambda t, boxes: torch.full_like(t, boxes[0].x), torch.zeros(1, 1, 16, 28), 16, 4)
    row = out[0, 0, 8]
    assert row[0] == 0
    assert row[-1] == 12
    assert (row.diff() >= 0).all()
    assert row[13].item() == pytest.approx(12 - row[14].item(), abs=1e-4)

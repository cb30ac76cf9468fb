"""Rounding to 8 bits in blocks, and what it costs on the demo."""

import pytest
import torch

from benchmarks.eight_bits import BLOCK, LEVELS, PICTURE, compare, in_blocks
from osediff_core.pictures.images import read_image


def test_weights_are_within_half_a_level_of_their_block():
    weight = (
        torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-4, 2, 6)[:, None, None, None]
    )
    weight[2] = 0
    away = (in_blocks(weight) - weight).abs().flatten(1)
    for first in range(0, 75, BLOCK):
        block = slice(first, first + BLOCK)
        level = weight.flatten(1)[:, block].abs().amax(1) / LEVELS
        assert (away[:, block].amax(1) <= 0.51 * level + 1e-9).all()
    assert away[0].max() > 0
    assert not in_blocks(weight)[2].any()


@pytest.mark.slow
def test_linear_layers_bear_it_and_convolutions_with_their_inputs_do_not():
    rows = {row.name: row for row in compare(read_image(PICTURE).rgb[..., 20:52, 40:72])}
    assert rows["linear layers of the UNet"].weights > 80
    assert rows["convolutions of the UNet"].inputs_too < 45
    assert rows["all"].saved == pytest.approx(sum(row.saved for row in rows.values()) - rows["all"].saved)

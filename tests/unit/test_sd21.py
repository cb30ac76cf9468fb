"""The full-size configurations, held to what is known of the real model: sizes, names, schedule."""

import pytest

from benchmarks.random_base import PARTS, empty
from osediff_core.base import sd21
from osediff_core.diffusion import alphas_cumprod


@pytest.fixture(scope="module")
def full_size():
    """UNet, VAE and text encoder on the meta device, where they take no memory."""
    return {part: empty(part) for part in PARTS}


@pytest.mark.parametrize(
    ("part", "count"), [("unet", 865_910_724), ("vae", 83_653_863), ("text_encoder", 340_387_840)]
)
def test_the_parts_have_the_size_of_the_real_ones(full_size, part, count):
    assert sum(p.numel() for p in full_size[part].parameters()) == count


def test_the_schedule_ends_where_the_step_begins():
    assert alphas_cumprod(dict(sd21.SCHEDULER))[999].item() == pytest.approx(0.00466009508818388, rel=1e-6)

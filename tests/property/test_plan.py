"""A plan, for any picture and any memory: the first way that fits, and a picture that no memory changes."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osediff_core.errors import OSEDiffError
from osediff_core.pipeline.plan import SHARE, make_plan

many = settings(deadline=None, max_examples=60)
sides = st.integers(1, 300)
bytes_free = st.one_of(st.none(), st.integers(0, 10**9), st.integers(0, 10**12))
cuts = st.sampled_from([{}, {"vae": 48}, {"vae": "whole"}, {"tile": 16, "overlap": 5}, {"tile": "off"}])


@pytest.fixture(scope="module")
def on_a_card(model):
    """The model on a device that knows shapes alone."""
    return copy.deepcopy(model).to("meta")


def enough(way, card, host):
    """Whether there is room for a way to run a half of the VAE."""
    return all(
        free is None or size <= SHARE * free
        for size, free in ((way.device_bytes, card), (way.host_bytes, host))
    )


@many
@given(sides, sides, st.integers(1, 4), st.floats(1, 4), cuts, bytes_free, bytes_free)
def test_every_half_starts_at_the_first_way_that_fits(
    on_a_card, machine, height, width, count, scale, cut, card, host
):
    made = {"count": count, "scale": scale, **cut}
    plan = make_plan(on_a_card, height, width, **made, runtime=machine(host, card))
    free = make_plan(on_a_card, height, width, **made, runtime=machine())
    assert (plan.size, plan.padded, plan.steps) == (free.size, free.padded, free.steps)
    assert plan.denoise[0].boxes == free.denoise[0].boxes
    assert free.fits
    for half, all_ways in ((plan.encode, free.encode), (plan.decode, free.decode)):
        names = [(way.piece, way.keep) for way in all_ways]
        assert [(way.piece, way.keep) for way in half] == names[-len(half) :]
        assert enough(half[0], card, host) or len(half) == 1
        assert plan.device_bytes >= half[0].device_bytes
        assert plan.host_bytes >= half[0].host_bytes
    assert plan.fits == enough(plan, card, host)
    whole = (plan.encode[0].piece, plan.decode[0].piece) == (None, None)
    assert plan.together == 1 or (plan.fits and plan.on_device and whole and plan.together <= count)
    assert not plan.on_device or plan.decode[0].keep is None
    if plan.fits or cut.get("vae") == "whole":
        plan.check()
    else:
        with pytest.raises(OSEDiffError, match="does not fit"):
            plan.check()


@many
@given(sides, sides, st.integers(1, 4), cuts, bytes_free, st.integers(0, 10**12))
def test_more_memory_never_makes_a_way_that_needs_less(
    on_a_card, machine, height, width, count, cut, card, more
):
    less, plenty = (
        make_plan(on_a_card, height, width, scale=4, count=count, **cut, runtime=machine(2**50, size))
        for size in (card, None if card is None else card + more)
    )
    assert len(plenty.encode) >= len(less.encode)
    assert len(plenty.decode) >= len(less.decode)
    assert plenty.on_device >= less.on_device
    assert (not less.fits) or plenty.fits

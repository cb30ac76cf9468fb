"""Sizes: what comes out is what was asked for, whatever goes in."""

import math
from dataclasses import replace

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from osediff_core import restore
from osediff_core.pipeline.plan import make_plan
from osediff_core.pipeline.run import prepare
from osediff_core.pipeline.runtime import Runtime
from osediff_core.resize import crop, pad_to_multiple, target_size

sides = st.integers(1, 40)
scales = st.floats(1, 4, allow_nan=False)
few = settings(deadline=None, max_examples=8)
many = settings(deadline=None, max_examples=40)


@few
@given(height=st.integers(1, 12), width=st.integers(1, 12), scale=scales, batch=st.integers(1, 2))
@example(height=1, width=1, scale=1.0, batch=1)
@example(height=1, width=300, scale=4.0, batch=1)
@example(height=300, width=1, scale=1.0, batch=1)
def test_restored_size_is_exactly_scale_times_input(model, height, width, scale, batch):
    lq = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)
    out = restore(model, lq, scale=scale, tile=8, overlap=2)
    assert out.shape == (batch, 3, math.floor(scale * height + 0.5), math.floor(scale * width + 0.5))
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert out.min() >= 0
    assert out.max() <= 1


@many
@given(height=sides, width=sides, scale=scales, reduction=st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_prepared_images_are_padded_but_not_stretched(model, height, width, scale, reduction):
    lq = torch.rand(1, 3, height, width)
    plan = make_plan(model, height, width, scale=scale, runtime=Runtime())
    x = prepare(lq, replace(plan, reduction=reduction))
    assert plan.size == target_size(height, width, scale)
    assert tuple(x.shape[-2:]) == replace(plan, reduction=reduction).padded
    assert all(padded % reduction == 0 for padded in x.shape[-2:])
    assert all(0 <= padded - true < reduction for padded, true in zip(x.shape[-2:], plan.size, strict=True))
    assert torch.equal(crop(x, plan.size), prepare(lq, replace(plan, reduction=1)))


@many
@given(height=sides, width=sides, multiple=st.integers(1, 64))
def test_padding_repeats_only_what_is_there(height, width, multiple):
    x = torch.rand(1, 1, height, width)
    padded = pad_to_multiple(x, multiple)
    assert torch.equal(crop(padded, (height, width)), x)
    assert set(padded.unique().tolist()) == set(x.unique().tolist())

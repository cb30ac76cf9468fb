"""Means, intervals and paired differences, against known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from train.evaluation.statistics import paired_difference, summarise


def test_the_interval_is_that_of_the_mean():
    """For many values the bootstrap's interval is the normal one: mean +- 1.96 standard errors."""
    values = np.random.default_rng(5).normal(30, 2, 400)
    found = summarise(values.tolist())
    error = values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert found.count == 400


def test_the_interval_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    held = [(s := summarise(generator.exponential(1.0, 60).tolist())).low <= 1 <= s.high for _ in range(60)]
    assert 50 <= sum(held) <= 60


def test_the_seed_decides_the_draw_and_nothing_else_does():
    values = np.random.default_rng(7).normal(0, 1, 30).tolist()
    assert summarise(values, 3) == summarise(values, 3)
    assert summarise(values, 3) != summarise(values, 4)
    assert summarise(values, 3).mean == summarise(values, 4).mean


def test_many_values_are_drawn_in_parts(monkeypatch):
    values = np.random.default_rng(2).normal(0, 1, 50).tolist()
    whole = summarise(values)
    monkeypatch.setattr("train.evaluation.statistics.AT_ONCE", 50 * 7)
    parts = summarise(values)
    assert parts.mean == whole.mean
    assert parts.low == pytest.approx(whole.low, abs=0.02)


def test_what_is_not_finite_is_left_out_and_counted():
    found = summarise([1.0, math.nan, 3.0, math.inf])
    assert (found.mean, found.count, found.left_out) == (2.0, 2, 2)
    none = summarise([math.nan])
    assert math.isnan(none.mean)
    assert (none.count, none.left_out) == (0, 1)


def test_one_picture_has_no_interval():
    found = summarise([5.0])
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert not found.beyond_chance


def test_a_paired_difference_sees_what_two_means_do_not():
    """Pictures differ by 10 dB, methods by 0.1: paired, the sign is certain; apart, it is not."""
    hard = np.random.default_rng(3).normal(28, 5, 100)
    theirs = {f"p{i}": float(v) for i, v in enumerate(hard)}
    jitter = np.random.default_rng(4).normal(0.1, 0.1, 100)
    ours = {name: value + float(j) for (name, value), j in zip(theirs.items(), jitter, strict=True)}
    gap = paired_difference(ours, theirs)
    assert gap.beyond_chance
    assert gap.mean == pytest.approx(jitter.mean())
    assert gap.high - gap.low < 0.1
    apart = summarise(list(ours.values()))
    assert apart.high - apart.low > 1
    assert paired_difference(theirs, ours).mean == pytest.approx(-gap.mean)
    shuffled = dict(zip(theirs, list(ours.values())[::-1], strict=True))
    assert not paired_difference(shuffled, theirs).beyond_chance

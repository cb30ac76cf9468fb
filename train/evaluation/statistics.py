"""Means over pictures, and how far they would move with other pictures of the kind: seeded bootstrap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0
AT_ONCE = 4_000_000
"""Drawn numbers that are held at a time."""


@dataclass(frozen=True)
class Summary:
    """A mean over `count` pictures and its 95 % interval; `left_out` had no finite value."""

    mean: float
    low: float
    high: float
    count: int
    left_out: int = 0

    @property
    def beyond_chance(self) -> bool:
        """Whether zero lies outside the interval: of a difference, that another draw would keep its sign."""
        return self.low > 0 or self.high < 0


def summarise(values: Sequence[float], seed: int = SEED) -> Summary:
    """Average over pictures; the interval is the percentile bootstrap's, of `RESAMPLES` draws.

    Values that are not finite are left out and counted. Of one picture, the interval is infinite.
    """
    finite = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    left_out = len(values) - len(finite)
    if len(finite) == 0:
        return Summary(math.nan, math.nan, math.nan, 0, left_out)
    mean = float(finite.mean())
    if len(finite) == 1:
        return Summary(mean, -math.inf, math.inf, 1, left_out)
    means = _resampled_means(finite, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Summary(mean, float(low), float(high), len(finite), left_out)


def paired_difference(ours: Mapping[str, float], theirs: Mapping[str, float], seed: int = SEED) -> Summary:
    """Average ours minus theirs, picture by picture: what makes pictures hard or easy falls out.

    Both must be of the same pictures, as `pair_up` makes sure.
    """
    return summarise([ours[name] - theirs[name] for name in sorted(ours.keys() & theirs.keys())], seed)


def _resampled_means(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Means of as many values drawn with replacement, (RESAMPLES,)."""
    rows = max(1, AT_ONCE // len(values))
    means = [
        values[generator.integers(0, len(values), (min(rows, RESAMPLES - start), len(values)))].mean(1)
        for start in range(0, RESAMPLES, rows)
    ]
    return np.concatenate(means)

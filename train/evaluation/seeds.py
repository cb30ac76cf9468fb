"""Means over runs of different seeds: their standard errors, and what chance explains."""

from __future__ import annotations

import math

STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % quantiles of Student's t with 1, 2, ... 9 degrees of freedom."""


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Return a mean and its standard error over the runs; of one run, the error is infinite."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.inf
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def spread(values: list[float], digits: int = 3) -> str:
    """Write a mean with its standard error over the runs; of one run, the value alone."""
    mean, error = mean_and_error(values)
    said = f"{mean:.{digits}f}"
    return f"{said} ± {error:.{digits}f}" if math.isfinite(error) else said


def beyond_chance(values: list[float]) -> bool:
    """Say whether zero lies outside the 95 % interval of the mean, by Student's t."""
    mean, error = mean_and_error(values)
    return abs(mean) > quantile(len(values)) * error


def quantile(runs: int) -> float:
    """Return how many standard errors the 95 % interval of a mean over `runs` values reaches."""
    return STUDENT_T[min(runs - 1, len(STUDENT_T)) - 1] if runs > 1 else math.inf

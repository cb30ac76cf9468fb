"""Single random decisions, each from an explicit generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """Draw one number from [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def integer(generator: torch.Generator, high: int) -> int:
    """Draw one of 0, 1, ..., high - 1."""
    return int(torch.randint(high, (), generator=generator))


def chance(generator: torch.Generator, probability: float) -> bool:
    """Be true with the given probability; 0 never is, 1 always is."""
    return uniform(generator, 0, 1) < probability


def choose(generator: torch.Generator, weights: Sequence[float]) -> int:
    """Draw an index with probability proportional to its weight."""
    point = uniform(generator, 0, sum(weights))
    for index, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return index
    return max(i for i, weight in enumerate(weights) if weight > 0)  # rounding ate the last sliver

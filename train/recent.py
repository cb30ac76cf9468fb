"""What was used last, kept within a budget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


def _one(value: object) -> int:
    return 1


class Recent(Generic[K, V]):
    """Values by key; where they cost more than the budget, those used longest ago are forgotten."""

    def __init__(self, budget: int, cost: Callable[[V], int] = _one) -> None:
        """Keep values of at most `budget` together, by default so many of them; 0 keeps nothing."""
        self.budget, self.used = budget, 0
        self._cost = cost
        self._values: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        """Tell whether there is a value; that does not count as a use."""
        return key in self._values

    def __getitem__(self, key: K) -> V:
        """Return a value, which does not count as a use either; KeyError where there is none."""
        return self._values[key]

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of a key, made now or before, as the one that was used last."""
        value = self[key] if key in self else make()
        self.keep(key, value)
        return value

    def keep(self, key: K, value: V) -> None:
        """Keep a value as the one that was used last."""
        if key in self._values:
            self.used -= self._cost(self._values.pop(key))
        self._values[key] = value
        self.used += self._cost(value)
        while self.used > self.budget:
            self.used -= self._cost(self._values.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
        self.used = 0

"""What was used last, within a number of values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by key; of more than `most`, those used longest ago are forgotten."""

    def __init__(self, most: int) -> None:
        """Keep at most so many values; 0 keeps nothing."""
        self.most = most
        self._values: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        """Tell whether a value is kept."""
        return key in self._values

    def __getitem__(self, key: K) -> V:
        """Return a value that is kept, as the one that was used last."""
        self._values.move_to_end(key)
        return self._values[key]

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of a key, made now or before, as the one that was used last."""
        value = self._values.pop(key) if key in self._values else make()
        self._values[key] = value
        if len(self._values) > self.most:
            self._values.popitem(last=False)
        return value

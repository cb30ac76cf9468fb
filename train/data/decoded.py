"""Decoded pictures in memory: all of a data set, or none of it."""

from __future__ import annotations

from collections.abc import Callable, Collection

from osediff_core.pictures.images import Picture

SEEN = 8
"""Pictures after which their mean size says whether all will fit."""


class Decoded:
    """Keeps pictures by name while all that are expected should fit, and none once they should not.

    An epoch sees every picture once in a random order, so that a part of them would hardly ever be met
    again before it is given up, and costs its memory all the same.
    """

    def __init__(self, budget: int) -> None:
        """Keep at most `budget` bytes of pixels; 0 keeps nothing."""
        self.budget, self.used = budget, 0
        self._names: set[str] = set()
        self._kept: dict[str, Picture] = {}

    def expect(self, names: Collection[str]) -> None:
        """Count on pictures of these names."""
        self._names.update(names)

    def get(self, name: str, read: Callable[[], Picture]) -> Picture:
        """Return a picture, read now or before."""
        picture = self._kept.get(name) or read()
        if name not in self._kept and self.budget:
            self._kept[name] = picture
            self.used += picture.rgb.nbytes
            if self._too_many():
                self.budget, self.used = 0, 0
                self._kept.clear()
        return picture

    def _too_many(self) -> bool:
        mean = self.used / len(self._kept)
        expected = mean * len(self._names) if len(self._kept) >= SEEN else self.used
        return max(expected, self.used) > self.budget

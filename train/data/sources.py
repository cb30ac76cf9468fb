"""Sources of pictures, each an endless sequence, and how they are mixed: functions of seed and number."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Protocol

import torch
from torch import Tensor

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import Picture

from ..randomness.streams import stream
from .crops import pair_ratio
from .decoded import Decoded
from .items import Item, load
from .listing import Entry
from .streams import Reader, Row, bytes_here, placeless

log = logging.getLogger(__name__)

BLOCK = 1000
"""Samples over which the shares of the sources are kept."""


@dataclass(frozen=True)
class SourcePicture:
    """A picture, its real LQ where the source has one, its name, and how many unreadable ones came before."""

    hq: Picture
    lq: Picture | None
    name: str
    unreadable: int


class Source(Protocol):
    """An endless sequence of pictures."""

    def fetch(self, place: int) -> SourcePicture:
        """Give the picture at a place, 0 or more, or the next that can be read. Raises OSEDiffError."""
        ...

    def once(self, skip: Container[str]) -> Iterator[SourcePicture]:
        """Go through all pictures that can be read and whose names are not in `skip`, each once."""
        ...

    def listing(self) -> list[Entry]:
        """Tell which pictures these are, without reading them."""
        ...


class PicturePool:
    """Pictures that can be had in any order: every epoch sees each once, in an order of its own."""

    def __init__(
        self, items: list[Item], lq_items: list[Item] | None, seed: int, number: int, cache: Decoded
    ) -> None:
        """Keep the lists; pictures are read when a sample needs them. `number` is the source's among all.

        cache: decoded pictures, shared with other sources.
        """
        cache.expect([item.name for item in [*items, *(lq_items or ())]])
        self.items, self.lq_items, self.seed, self.number = items, lq_items, seed, number
        self.unreadable: set[str] = set()
        self._cache = cache
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def fetch(self, place: int) -> SourcePicture:
        """Give the picture at a place, or the next in the list that can be read."""
        epoch, rest = divmod(place, len(self.items))
        if self._order[0] != epoch:
            order = torch.randperm(len(self.items), generator=stream(self.seed, "epoch", self.number, epoch))
            self._order = (epoch, order)
        first = int(self._order[1][rest])
        for step in range(len(self.items)):
            found = self._try((first + step) % len(self.items), step)
            if found is not None:
                return found
        first = self.items[0].name
        raise OSEDiffError(
            f"None of the {len(self.items)} pictures in one source ({first}, ...) can be used; see warnings."
        )

    def once(self, skip: Container[str]) -> Iterator[SourcePicture]:
        """Go through all pictures that can be read and whose names are not in `skip`, each once."""
        seen: set[str] = set()
        for number, item in enumerate(self.items):
            if item.name in skip or item.name in seen:
                continue
            seen.add(item.name)
            found = self._try(number, 0)
            if found is not None:
                yield found

    def listing(self) -> list[Entry]:
        """List the pictures in their order, and then their real LQs."""
        real = [item.entry for item in self.lq_items or ()]
        return [item.entry for item in self.items] + [(f"LQ {name}", size) for name, size in real]

    def _try(self, number: int, before: int) -> SourcePicture | None:
        item = self.items[number]
        if item.name in self.unreadable:
            return None
        try:
            hq = self._read(item)
            if self.lq_items is None:
                return SourcePicture(hq, None, item.name, before)
            lq = self._read(self.lq_items[number])
            pair_ratio(hq.rgb[0], lq.rgb[0])
            return SourcePicture(hq, lq, item.name, before)
        except OSEDiffError as error:
            self.unreadable.add(item.name)
            log.warning("Skipping a picture (%d so far): %s", len(self.unreadable), error)
            return None

    def _read(self, item: Item) -> Picture:
        return self._cache.get(item.name, partial(load, item))


class Stream:
    """Pictures that come in a fixed order: shuffled among the `buffer` that are held at a time."""

    def __init__(self, source: str, buffer: int, seed: int, number: int) -> None:
        """Remember what to read; it is opened when the first sample needs it."""
        self.source, self.buffer, self.seed, self.number = source, buffer, seed, number
        self.unreadable: set[str] = set()
        self._reader = Reader(source)
        self._block: tuple[int, list[Row]] = (-1, [])

    def fetch(self, place: int) -> SourcePicture:
        """Give the picture at a place, or the next held one that can be read."""
        block, rest = divmod(place, self.buffer)
        if self._block[0] != block:
            self._block = (block, self._reader.read(block * self.buffer, self.buffer))
        order = torch.randperm(self.buffer, generator=stream(self.seed, "block", self.number, block))
        for step in range(self.buffer):
            found = self._try(self._block[1][int(order[(rest + step) % self.buffer])], step)
            if found is not None:
                return found
        raise OSEDiffError(
            f"None of {self.buffer} pictures in a row of {self.source} can be read; see the warnings."
        )

    def once(self, skip: Container[str]) -> Iterator[SourcePicture]:
        """Go through all pictures that can be read and whose names are not in `skip`, each once."""
        reader = Reader(self.source)
        for number in count():
            row = reader.read(number, 1)[0]
            if reader.length is not None:  # it began anew
                return
            found = None if row.name in skip else self._try(row, 0)
            if found is not None:
                yield found

    def listing(self) -> list[Entry]:
        """Name the stream: what is in it is only known where its files lie here, and then as their size."""
        return [(placeless(self.source), bytes_here(self.source))]

    def _try(self, row: Row, before: int) -> SourcePicture | None:
        try:
            return SourcePicture(load(row), None, row.name, before)
        except OSEDiffError as error:
            if row.name not in self.unreadable:
                self.unreadable.add(row.name)
                log.warning("Skipping a picture (%d so far): %s", len(self.unreadable), error)
            return None


class Mix:
    """Which source a sample comes from: shares are exact over every BLOCK samples, in a random order."""

    def __init__(self, weights: list[float], seed: int) -> None:
        """Divide every block among sources by weight; any weight above 0 gets a sample at least."""
        shares = torch.tensor(weights, dtype=torch.float64) / sum(weights) * BLOCK
        counts = shares.floor()
        counts[(counts == 0) & (shares > 0)] = 1
        rest = BLOCK - int(counts.sum())
        counts[(shares - counts).argsort(descending=True)[: max(rest, 0)]] += 1
        counts[counts.argmax()] += min(rest, 0)
        self.counts, self.seed = counts.long(), seed  # (sources,)
        self._block: tuple[int, Tensor] = (-1, torch.empty(0))

    def locate(self, index: int) -> tuple[int, int]:
        """Give the source of sample `index`, and the sample's place in the sequence of that source."""
        if len(self.counts) == 1:
            return 0, index
        block, rest = divmod(index, BLOCK)
        if self._block[0] != block:
            slots = torch.arange(len(self.counts)).repeat_interleave(self.counts)  # (BLOCK,)
            order = torch.randperm(BLOCK, generator=stream(self.seed, "mix", block))
            self._block = (block, slots[order])
        slots = self._block[1]
        source = int(slots[rest])
        return source, block * int(self.counts[source]) + int((slots[:rest] == source).sum())

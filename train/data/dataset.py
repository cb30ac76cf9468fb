"""Training samples: random crops of clean pictures and their degraded counterparts.

Sample i is a pure function of (seed, i): the same with any number of workers and processes, and after a
resume, so the position in the data is one number. i counts samples since the start of the run and has no end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from osediff_core.errors import OSEDiffError

from ..degradation import DegradationConfig, degrade, sharpen
from ..randomness.sampling import chance
from ..randomness.streams import stream
from .config import DataConfig
from .crops import draw_crop, draw_pair, seen_part, vary_colour
from .decoded import Decoded
from .listing import Entry
from .pictures import find_pictures, pair_up
from .sources import Mix, PicturePool, Source, SourcePicture, Stream
from .streams import is_stream

REMARKS = ("unreadable", "small", "grey", "cmyk", "paired")
"""What is counted, per sample: pictures passed over because they cannot be read, and samples of pictures
smaller than the crop, stored in grey, stored in CMYK, and with a real LQ."""


class Sample(TypedDict):
    """hq and lq (3, crop, crop) float32 in [0, 1]; index: the sample's number; name: the picture's; remarks:
    how often each of REMARKS applies, (5,). Where the training device degrades, lq is hq still, unless it is
    real."""

    hq: Tensor
    lq: Tensor
    index: int
    name: str
    remarks: Tensor


def build_dataset(data: DataConfig, degradation: DegradationConfig, seed: int) -> PictureDataset:
    """Find the pictures and make the data set. Raises OSEDiffError where a source is missing or empty."""
    return PictureDataset(data, degradation, seed)


def build_validation(data: DataConfig, degradation: DegradationConfig, seed: int) -> PictureDataset:
    """Make the data set whose first samples are shown and measured during the run."""
    if not data.validation:
        return build_dataset(data, degradation, seed)
    equal = (1.0,) * len(data.validation) if any(data.validation_lq) else ()  # pairs are not pooled
    own = {"sources": data.validation, "lq_sources": data.validation_lq, "weights": equal}
    held_out = replace(data, **own, validation=(), validation_lq=())
    return build_dataset(held_out, degradation, seed)


class PictureDataset(Dataset[Sample]):
    """Random crops of the pictures with their degraded counterparts; see the module for what an index is."""

    def __init__(self, data: DataConfig, degradation: DegradationConfig, seed: int) -> None:
        """Find the pictures of all sources; they are read when a sample needs them."""
        self.data, self.degradation, self.seed = data, degradation, seed
        self.sources, weights = build_sources(data, seed)
        self._mix = Mix(weights, seed)

    def __getitem__(self, index: int) -> Sample:
        """Make sample `index`, 0 or more. Raises OSEDiffError when no picture can be read."""
        source, place = self._mix.locate(index)
        found = self.sources[source].fetch(place)
        hq, lq = self._cut(found, stream(self.seed, "sample", index))  # (3, crop, crop) each, in [0, 1]
        if self.degradation.sharpen:
            hq = sharpen(hq)
        if lq is None:
            here = self.degradation.where == "workers"
            lq = degrade(hq, self.degradation, degradation_stream(self.seed, index)) if here else hq
        return {"hq": hq, "lq": lq, "index": index, "name": found.name, "remarks": self._remarks(found)}

    def listing(self) -> list[Entry]:
        """Tell which pictures there are, in which source and which order, wherever they lie."""
        return [
            (f"{number}/{name}" if len(self.sources) > 1 else name, size)
            for number, source in enumerate(self.sources)
            for name, size in source.listing()
        ]

    def _cut(self, found: SourcePicture, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        seen = seen_part(found.hq, found.lq)
        if found.lq is None:
            hq = draw_crop(found.hq.rgb[0], self.data, generator, seen).float() / 255
            varied = chance(generator, self.data.vary_colour_prob)
            return (vary_colour(hq, generator) if varied else hq), None
        hq, lq = draw_pair(found.hq.rgb[0], found.lq.rgb[0], self.data, generator, seen)
        return hq.float() / 255, lq.float() / 255

    def _remarks(self, found: SourcePicture) -> Tensor:
        hq, small = found.hq, min(found.hq.rgb.shape[-2:]) < self.data.crop
        counts = (found.unreadable, small, hq.grey, hq.mode == "CMYK", found.lq is not None)
        return torch.tensor(counts, dtype=torch.int64)


def degradation_stream(seed: int, index: int) -> torch.Generator:
    """Make the generator that sample `index` is degraded with, on whatever device that happens."""
    return stream(seed, "degradation", index)


def degrade_batch(
    hq: Tensor, lq: Tensor, index: Tensor, remarks: Tensor, degradation: DegradationConfig, seed: int
) -> Tensor:
    """Give the LQ of a batch: as it came, or made here where `degradation.where` is "device".

    hq, lq (B, 3, H, W) in [0, 1] on the training device, index (B,), remarks (B, 5) as the loader gave them.
    """
    if degradation.where == "workers":
        return lq
    paired = remarks[:, REMARKS.index("paired")].tolist()
    made = [
        lq[b] if paired[b] else degrade(hq[b], degradation, degradation_stream(seed, number))
        for b, number in enumerate(index.tolist())
    ]
    return torch.stack(made)  # (B, 3, H, W)


def build_sources(data: DataConfig, seed: int) -> tuple[list[Source], list[float]]:
    """Open the sources: each with its weight, or all pooled into one where there are no weights."""
    cache = Decoded(data.cache_mb << 20)
    if not data.sources:
        find_pictures(())  # says what to do
    if not data.weights:
        if len(data.sources) == 1 or not (any(data.lq_sources) or any(map(is_stream, data.sources))):
            return [_open(data, range(len(data.sources)), 0, seed, cache)], [1.0]
        raise OSEDiffError(
            "several data.sources with a stream or real pairs among them need data.weights: give each a share"
        )
    return [_open(data, (n,), n, seed, cache) for n in range(len(data.sources))], list(data.weights)


def _open(data: DataConfig, which: range | tuple[int, ...], number: int, seed: int, cache: Decoded) -> Source:
    """Make one source out of the pictures of `which` sources."""
    names = [data.sources[n] for n in which]
    lq_name = data.lq_sources[number] if data.lq_sources else ""
    if len(names) == 1 and is_stream(names[0]):
        if lq_name:
            raise OSEDiffError(
                f"the stream {names[0]} cannot be paired with {lq_name}: unpack it to folders or shards"
            )
        return Stream(names[0], data.stream_buffer, seed, number)
    items = find_pictures(names)
    if not lq_name:
        return PicturePool(items, None, seed, number, cache)
    if data.whole:
        raise OSEDiffError("data.whole squeezes pictures, which real pairs cannot be: leave one of them out")
    return PicturePool(items, pair_up(items, find_pictures([lq_name]), lq_name), seed, number, cache)

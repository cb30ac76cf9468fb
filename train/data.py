"""Training samples: random crops of clean pictures and their degraded counterparts.

Sample i is a pure function of (seed, i): the same with any number of workers, and after a resume. i counts
samples since the start of the run and has no end; every run of len(dataset) samples is one epoch, which
visits each picture once, in an order of its own.
"""

from __future__ import annotations

import glob
import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from osediff_core.errors import OSEDiffError

from .degradation import DegradationConfig, degrade
from .degradation.filters import mirrored
from .dice import chance, integer, uniform
from .draws import stream

log = logging.getLogger(__name__)

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class DataConfig:
    """Which clean pictures, and what is cut out of them."""

    sources: tuple[str, ...] = ()
    """Folders (with all below them), picture files, patterns like "photos/*.png", or .txt lists of these, one
    per line; what is named twice is seen twice as often."""
    crop: int = 512
    """Side of the crops, pixels (published: 512); smaller pictures are continued by reflection."""
    shrink: float = 1.0
    """Smallest factor by which a crop is shrunk, drawn from [shrink, 1] as far as the picture is large
    enough; 1 never shrinks (published). For few but large photographs: finer detail, more variety."""
    flip_prob: float = 0.5
    """Probability of a horizontal flip (published: 0.5)."""
    rotate: bool = False
    """Turn by a random multiple of 90 degrees."""
    cache_mb: int = 512
    """Memory for decoded pictures in each worker, MiB; 0 reads every picture anew."""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.crop < 16:
            raise OSEDiffError(f"data.crop must be at least 16 pixels, got {self.crop}.")
        if not 0 < self.shrink <= 1:
            raise OSEDiffError(f"data.shrink must be above 0 and at most 1, got {self.shrink}.")
        if not 0 <= self.flip_prob <= 1:
            raise OSEDiffError(f"data.flip_prob must be a probability from 0 to 1, got {self.flip_prob}.")
        if self.cache_mb < 0:
            raise OSEDiffError(f"data.cache_mb must be 0 or more, got {self.cache_mb}.")


class Sample(TypedDict):
    """hq and lq (3, crop, crop) float32 in [0, 1]; index: the sample's number."""

    hq: Tensor
    lq: Tensor
    index: int


def build_dataset(data: DataConfig, degradation: DegradationConfig, seed: int) -> PictureDataset:
    """Find the pictures and make the data set. Raises OSEDiffError where a source is missing or empty."""
    return PictureDataset(find_pictures(data.sources), data, degradation, seed)


def step_indices(first_step: int, last_step: int, batch_size: int) -> range:
    """Sample numbers of the steps [first_step, last_step), in order: a sampler for the DataLoader."""
    return range(first_step * batch_size, last_step * batch_size)


def find_pictures(sources: Iterable[str | Path]) -> list[Path]:
    """Expand folders, patterns and list files to picture files, in a fixed order; repetitions are kept.

    Lines of a list file are relative to its folder; empty ones and those beginning with # are passed over.
    Raises OSEDiffError for a source that does not exist or holds no picture, and when there is no source.
    """
    found = [path for source in sources for path in _expand(Path(source))]
    if not found:
        raise OSEDiffError("There are no training pictures: name folders or list files in data.sources.")
    return found


class PictureDataset(Dataset[Sample]):
    """Random crops of the pictures with their degraded counterparts; see the module for what an index is."""

    def __init__(
        self, paths: list[Path], data: DataConfig, degradation: DegradationConfig, seed: int
    ) -> None:
        """Keep the list; pictures are read when a sample needs them."""
        self.paths, self.data, self.degradation, self.seed = paths, data, degradation, seed
        self.unreadable: set[Path] = set()
        self._cache = _Cache(data.cache_mb << 20)

    def __len__(self) -> int:
        """Samples in an epoch: the number of pictures, repetitions counted."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Make sample `index`, 0 or more. Raises OSEDiffError when no picture can be read."""
        generator = stream(self.seed, "sample", index)
        crop = draw_crop(self._picture(self._choose(index)), self.data, generator)
        hq = crop.float() / 255  # (3, crop, crop) in [0, 1]
        return {"hq": hq, "lq": degrade(hq, self.degradation, generator), "index": index}

    def _choose(self, index: int) -> int:
        """Give the number of the sample's picture: the index-th of an endless sequence of shuffled epochs."""
        epoch, place = divmod(index, len(self.paths))
        return int(torch.randperm(len(self.paths), generator=stream(self.seed, "epoch", epoch))[place])

    def _picture(self, number: int) -> Tensor:
        """Read picture `number`, uint8 (3, H, W), or the next in the list that can be read."""
        for step in range(len(self.paths)):
            path = self.paths[(number + step) % len(self.paths)]
            if path in self.unreadable:
                continue
            try:
                return self._cache.get(path)
            except OSEDiffError as error:
                self.unreadable.add(path)
                log.warning("Skipping a training picture (%d so far): %s", len(self.unreadable), error)
        raise OSEDiffError(f"None of the {len(self.paths)} training pictures can be read; see the warnings.")


def draw_crop(picture: Tensor, data: DataConfig, generator: torch.Generator) -> Tensor:
    """Cut a random (3, crop, crop) out of uint8 (3, H, W), shrunk, flipped and turned as configured."""
    height, width = picture.shape[-2:]
    factor = max(uniform(generator, data.shrink, 1), min(1.0, data.crop / min(height, width)))
    side = round(data.crop / factor)
    rows = mirrored(height, integer(generator, max(1, height - side + 1)), side)
    columns = mirrored(width, integer(generator, max(1, width - side + 1)), side)
    crop = picture[:, rows][:, :, columns]  # (3, side, side)
    if side != data.crop:
        from osediff_core.resize import resize_bicubic

        crop = resize_bicubic(crop[None], (data.crop, data.crop))[0]
    if chance(generator, data.flip_prob):
        crop = crop.flip(-1)
    if data.rotate:
        crop = crop.rot90(integer(generator, 4), (-2, -1))
    return crop.contiguous()


class _Cache:
    """Decoded pictures, the least recently used forgotten first, within a number of bytes."""

    def __init__(self, budget: int) -> None:
        self.budget, self.used = budget, 0
        self.pictures: OrderedDict[Path, Tensor] = OrderedDict()

    def get(self, path: Path) -> Tensor:
        """Give the picture, uint8 (3, H, W). Raises OSEDiffError when it cannot be read."""
        from osediff_core.images import read_image

        if path in self.pictures:
            self.pictures.move_to_end(path)
            return self.pictures[path]
        picture = read_image(path).rgb[0]
        self.pictures[path] = picture
        self.used += picture.nbytes
        while self.used > self.budget:
            self.used -= self.pictures.popitem(last=False)[1].nbytes
        return picture


def _expand(source: Path) -> list[Path]:
    if source.is_dir():
        found = sorted(p for p in source.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    elif source.suffix.lower() == ".txt" and source.is_file():
        found = [path for line in _lines(source) for path in _expand(source.parent / line)]
    elif source.is_file():
        return [source]
    else:
        found = [Path(name) for name in sorted(glob.glob(str(source), recursive=True))]
        found = [path for path in found if path.suffix.lower() in PICTURE_SUFFIXES]
    if not found:
        known = ", ".join(PICTURE_SUFFIXES)
        raise OSEDiffError(f"The training source {source} does not exist or holds no picture ({known}).")
    return found


def _lines(source: Path) -> list[str]:
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OSEDiffError(f"The list of training pictures {source} cannot be read: {error}.") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]

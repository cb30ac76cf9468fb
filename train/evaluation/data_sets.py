"""Test sets, low-quality pictures with their originals, in the layouts that they are published in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from osediff_core.errors import OSEDiffError

from .pairs import Pair, pair_up

LAYOUTS = (("test_LR", "test_HR"), ("lq", "gt"), ("lq", "hq"), ("LR", "HR"), ("LQ", "HQ"))
"""Names of the two folders of a set: of StableSR's real sets, of its DIV2K set, and of others."""
STABLESR = MappingProxyType(
    {
        "RealSR": ("RealSRVal_crop128", "benchmark_realsr"),
        "DRealSR": ("DrealSRVal_crop128", "benchmark_drealsr"),
        "DIV2K-Val": ("DIV2K_V2_val",),
    }
)
"""The paper's sets, and what their folders are called where StableSR and OSEDiff publish them."""
SOURCE = "https://huggingface.co/datasets/Iceclear/StableSR-TestSets"
LICENCE = "S-Lab License 1.0, non-commercial"


@dataclass(frozen=True)
class SetConfig:
    """Where a test set lies: its folder, or the two folders of its pictures."""

    folder: str | None = None
    """The set's folder, or that of several sets as they are published."""
    lq: str | None = None
    """Low-quality pictures."""
    hq: str | None = None
    """Their originals."""

    def __post_init__(self) -> None:
        """Refuse what is neither."""
        both = self.lq is not None and self.hq is not None
        if (self.folder is None) != both or (self.lq is None) != (self.hq is None):
            raise OSEDiffError("a test set has either `folder` or both `lq` and `hq`: give one of the two")


@dataclass(frozen=True)
class DataSet:
    """A test set: `folder` is where it lies, `hq` where its originals are.

    pairs: the low-quality picture in the place of the restored one, to be enlarged.
    """

    name: str
    folder: Path
    hq: Path
    pairs: list[Pair]

    def paired_with(self, restored: Path) -> list[Pair]:
        """Pair somebody's restored pictures with the originals and inputs, under the names of this set."""
        ours = {pair.hq: pair for pair in self.pairs}
        found = [(pair, ours[pair.hq]) for pair in pair_up(restored, self.hq)]
        return [replace(pair, name=own.name, lq=own.sr) for pair, own in found]


def open_set(name: str, config: SetConfig) -> DataSet:
    """Find the pairs of a test set. Raises OSEDiffError for one that is missing, saying where it is had."""
    if config.lq is not None and config.hq is not None:
        low, high = Path(config.lq), Path(config.hq)
    else:
        low, high = _find(name, Path(config.folder or ""))
    return DataSet(name, low.parent, high, pair_up(low, high, enlarge=True))


def _find(name: str, folder: Path) -> tuple[Path, Path]:
    places = [folder, *(folder / known for known in STABLESR.get(name, (name,)))]
    for place in places:
        for low, high in LAYOUTS:
            if (place / low).is_dir() and (place / high).is_dir():
                return place / low, place / high
    layouts = ", ".join("/".join(pair) for pair in LAYOUTS)
    where = (
        f"it is part of {SOURCE} ({LICENCE}; not shipped here): download its folder {STABLESR[name][0]}"
        if name in STABLESR
        else "name its two folders with `lq` and `hq`"
    )
    raise OSEDiffError(f"the test set {name} is not in {folder}: expected folders {layouts} there; {where}")

"""The measures behind the table of metrics, built of this project's own code and of installed libraries."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from osediff_core.errors import OSEDiffError, first_line
from osediff_core.resize import resize_bicubic

from .artifacts import colour_drift, noise_on_flat, shift, tile_borders
from .fidelity import psnr_y, ssim_y
from .metric_table import read_metrics
from .pairs import Pair, read_input, read_pair
from .recognition import face_likeness, text_errors

log = logging.getLogger(__name__)

SEED = 0
"""Of what libraries draw: MANIQA's crops and KID's subsets."""
INCEPTION_SIDE = 299
KID_SUBSET = 100

Measure = Callable[[Tensor, Tensor | None], float]
"""Of SR and what it is compared with, HQ or the enlarged LQ, uint8 (1, 3, H, W); None for nothing."""
SetMeasure = Callable[[Sequence[Pair]], float]
"""Of all pictures and their originals, read one after the other."""


def build_measure(name: str, device: torch.device) -> Measure:
    """Build the measure of a metric of pairs or pictures.

    Raises OSEDiffError, with the library's reason, where it cannot be built.
    """
    try:
        return BUILDERS[name](device)
    except Exception as error:  # a library without its weights raises anything, from URLError to ValueError
        raise OSEDiffError(f"{name} could not be set up: {first_line(error)}") from error


@lru_cache(maxsize=1)
def _built(names: tuple[str, ...], device: str) -> dict[str, Measure | str]:
    """Return the measures of one process; in place of what cannot be built, the reason."""
    built: dict[str, Measure | str] = {}
    for name in names:
        try:
            built[name] = build_measure(name, torch.device(device))
        except OSEDiffError as error:
            built[name] = str(error)
    return built


def measure_pair(pair: Pair, names: tuple[str, ...], device: str) -> tuple[dict[str, float], dict[str, str]]:
    """Read one pair and measure it: values, and the reasons why metrics have none at all.

    A measure that fails on this picture (most have a least size) gives NaN and a warning.
    """
    built = _built(names, device)
    sr, hq = read_pair(pair)
    lq = read_input(pair, sr)
    values: dict[str, float] = {}
    for name, measure in built.items():
        if not isinstance(measure, str):
            values[name] = value_of(name, measure, pair.name, sr, hq, lq)
    return values, {name: reason for name, reason in built.items() if isinstance(reason, str)}


def value_of(
    name: str, measure: Measure, picture: str, sr: Tensor, hq: Tensor | None, lq: Tensor | None
) -> float:
    """Measure one picture, uint8 (1, 3, H, W), by what its metric compares with; NaN where that fails."""
    try:
        return measure(sr, lq if read_metrics()[name].of == "input" else hq)
    except MemoryError:
        raise
    except Exception as error:  # whatever a library raises for a picture it cannot take
        log.warning("%s has no value for %s: %s", name, picture, first_line(error))
        return math.nan


def measure_set(name: str, pairs: Sequence[Pair], device: torch.device) -> float:
    """Compute a metric of a whole set. Raises OSEDiffError where that cannot be done."""
    try:
        return SET_BUILDERS[name](device)(pairs)
    except OSEDiffError:
        raise
    except Exception as error:
        raise OSEDiffError(f"{name} could not be computed: {first_line(error)}") from error


def unit(image: Tensor, device: torch.device) -> Tensor:
    """uint8 to float32 in [0, 1], on the device."""
    return image.to(device).float() / 255


def _comparing(measure: Callable[[Tensor, Tensor], Tensor], device: torch.device) -> Measure:
    @torch.no_grad()
    def measured(sr: Tensor, other: Tensor | None) -> float:
        if other is None:
            raise OSEDiffError("this metric compares with an original or an input: give HQ or LQ")
        return float(measure(unit(sr, device), unit(other, device)))

    return measured


def _no_reference(measure: Callable[[Tensor], Tensor], device: torch.device) -> Measure:
    @torch.no_grad()
    def measured(sr: Tensor, _: Tensor | None) -> float:
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            return float(measure(unit(sr, device)))

    return measured


def _on_cpu(measure: Callable[[Tensor, Tensor], Tensor]) -> Callable[[torch.device], Measure]:
    """Wrap a measure of this project: in float64 or next to nothing, which is no work for every device."""
    return lambda _: _comparing(measure, torch.device("cpu"))


def _tile_borders(device: torch.device) -> Measure:
    return _no_reference(tile_borders, torch.device("cpu"))


def _text(device: torch.device) -> Measure:
    return _comparing(text_errors(), torch.device("cpu"))


def _face(device: torch.device) -> Measure:
    return _comparing(face_likeness(), torch.device("cpu"))


def _lpips(device: torch.device) -> Measure:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return _comparing(LearnedPerceptualImagePatchSimilarity("alex", normalize=True).to(device), device)


def _dists(device: torch.device) -> Measure:
    from torchmetrics.image.dists import DeepImageStructureAndTextureSimilarity

    return _comparing(DeepImageStructureAndTextureSimilarity(reduction="mean").to(device), device)


def _clipiqa(device: torch.device) -> Measure:
    from piq import CLIPIQA  # pyright: ignore[reportMissingImports]

    return _no_reference(CLIPIQA(data_range=1.0).to(device), device)


def _brisque(device: torch.device) -> Measure:
    from piq import brisque  # pyright: ignore[reportMissingImports]

    return _no_reference(lambda sr: brisque(sr, data_range=1.0), device)


def _of_pyiqa(name: str) -> Callable[[torch.device], Measure]:
    def build(device: torch.device) -> Measure:
        import pyiqa  # pyright: ignore[reportMissingImports]

        return _no_reference(pyiqa.create_metric(name, device=device), device)

    return build


def _fid(device: torch.device) -> SetMeasure:
    from torchmetrics.image.fid import FrechetInceptionDistance

    distance = FrechetInceptionDistance(feature=2048).to(device)
    return lambda pairs: float(_fed(distance, pairs, device).compute())


def _kid(device: torch.device) -> SetMeasure:
    from torchmetrics.image.kid import KernelInceptionDistance

    def measured(pairs: Sequence[Pair]) -> float:
        distance = KernelInceptionDistance(feature=2048, subset_size=min(KID_SUBSET, len(pairs))).to(device)
        _fed(distance, pairs, device)
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            return float(distance.compute()[0])

    return measured


def _fed(distance: Any, pairs: Sequence[Pair], device: torch.device) -> Any:  # noqa: ANN401
    """Show a distance of distributions all pictures, shrunk to what Inception takes."""
    for pair in pairs:
        sr, hq = read_pair(pair)
        if hq is None:
            raise OSEDiffError("this metric compares with originals: give HQ")
        for image, real in ((sr, False), (hq, True)):
            distance.update(resize_bicubic(image, (INCEPTION_SIDE, INCEPTION_SIDE)).to(device), real=real)
    return distance


BUILDERS: Mapping[str, Callable[[torch.device], Measure]] = MappingProxyType(
    {
        "psnr": _on_cpu(psnr_y),
        "ssim": _on_cpu(ssim_y),
        "lpips": _lpips,
        "dists": _dists,
        "clipiqa": _clipiqa,
        "brisque": _brisque,
        "niqe": _of_pyiqa("niqe"),
        "musiq": _of_pyiqa("musiq"),
        "maniqa": _of_pyiqa("maniqa-pipal"),
        "borders": _tile_borders,
        "drift": _on_cpu(colour_drift),
        "shift": _on_cpu(shift),
        "noise": _on_cpu(noise_on_flat),
        "text": _text,
        "face": _face,
    }
)
SET_BUILDERS: Mapping[str, Callable[[torch.device], SetMeasure]] = MappingProxyType(
    {"fid": _fid, "kid": _kid}
)

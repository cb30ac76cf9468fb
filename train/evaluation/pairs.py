"""Which restored picture belongs to which original: by name, where the ends of names may differ."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.files import PICTURES
from osediff_core.pictures.find import find_files
from osediff_core.pictures.images import read_image
from osediff_core.resize import resize_bicubic

SEPARATORS = "_-. "
"""What the end of a name, such as that in `a_HR` or `a-out`, begins with."""
NAMED = 5
"""Pictures that an error names one by one."""


@dataclass(frozen=True)
class Pair:
    """A restored picture and its original, under the name they share; without an original, `hq` is None.

    enlarge: `sr` is a low-quality picture, which bicubic interpolation brings to the original's size.
    lq: what `sr` was restored from, where that is known.
    """

    name: str
    sr: Path
    hq: Path | None
    enlarge: bool = False
    lq: Path | None = None


def picture_files(place: Path) -> list[Path]:
    """List the pictures of a folder, or the one that is named. Raises OSEDiffError where there is none."""
    if place.is_file():
        return [place]
    try:
        files = find_files(place, PICTURES, recursive=False).files
    except OSError as error:
        raise OSEDiffError(
            f"expected a picture or a folder of pictures at {place}: {error.strerror}"
        ) from error
    if not files:
        raise OSEDiffError(f"expected pictures in {place}, found none: name the folder that holds them")
    return files


def pair_up(sr: Path, hq: Path | None, *, enlarge: bool = False) -> list[Pair]:
    """Pair the pictures of two places, each a folder or one file, in the order of their names.

    Two files are a pair whatever they are called. In folders, names are compared without the ending of the
    format; where they differ, without the end that all names of a folder share (`_HR`, `_out`). Raises
    OSEDiffError, naming pictures, where one has no partner or one name stands for several.
    """
    restored = picture_files(sr)
    if hq is None:
        return [Pair(name, path, None, enlarge) for name, path in _by_name(restored, sr, "").items()]
    originals = picture_files(hq)
    if sr.is_file() and hq.is_file():
        return [Pair(sr.stem, sr, hq, enlarge)]
    ends, (ours, theirs) = _most_shared(restored, originals, (sr, hq))
    for missing, place in ((ours.keys() - theirs.keys(), hq), (theirs.keys() - ours.keys(), sr)):
        if missing:
            raise OSEDiffError(
                f"expected the same names in {sr} and {hq}{_without(ends)}: {place} has no {_some(missing)}; "
                "leave out what has no partner"
            )
    return [Pair(name, ours[name], theirs[name], enlarge) for name in sorted(ours)]


def with_inputs(pairs: Sequence[Pair], sr: Path, lq: Path) -> list[Pair]:
    """Add what the pictures of `sr` were restored from. Raises OSEDiffError where one has no partner."""
    inputs = {partner.hq: partner.sr for partner in pair_up(lq, sr)}
    return [replace(pair, lq=inputs[pair.sr]) for pair in pairs]


def read_pair(pair: Pair) -> tuple[Tensor, Tensor | None]:
    """Read both pictures, uint8 (1, 3, H, W). Raises OSEDiffError, naming them, where their sizes differ."""
    sr = read_image(pair.sr).rgb
    if pair.hq is None:
        return sr, None
    hq = read_image(pair.hq).rgb
    size = (hq.shape[2], hq.shape[3])
    if pair.enlarge:
        check_scale(pair.name, sr, hq)
        sr = resize_bicubic(sr, size)
    if sr.shape != hq.shape:
        raise OSEDiffError(
            f"expected {pair.sr} at the size of {pair.hq.name}, {size[1]}x{size[0]}, "
            f"got {sr.shape[3]}x{sr.shape[2]}: restore it at the scale that gives this size"
        )
    return sr, hq


def read_input(pair: Pair, sr: Tensor) -> Tensor | None:
    """Read what a picture was restored from, at its size by bicubic interpolation: uint8 (1, 3, H, W).

    Raises OSEDiffError, naming it, for an input of another shape than the result's.
    """
    if pair.lq is None:
        return None
    lq = read_image(pair.lq).rgb
    (height, width), (h, w) = sr.shape[2:], lq.shape[2:]
    if abs(height / h - width / w) * max(h, w) > 1:  # a result's sides are rounded
        raise OSEDiffError(
            f"expected {pair.lq} in the shape of {pair.sr.name}, {width}x{height}, got {w}x{h}: name what "
            "it was restored from"
        )
    return resize_bicubic(lq, (height, width))


def check_scale(name: str, lq: Tensor, hq: Tensor) -> int:
    """Return how many times larger the original is, a whole number. Raises OSEDiffError where it is none."""
    scale = hq.shape[2] // lq.shape[2]
    if scale < 1 or tuple(hq.shape[2:]) != (lq.shape[2] * scale, lq.shape[3] * scale):
        raise OSEDiffError(
            f"expected the original of {name} to be a whole number of times as large as its low-quality "
            f"picture, got {hq.shape[3]}x{hq.shape[2]} and {lq.shape[3]}x{lq.shape[2]}: take pairs that fit"
        )
    return scale


def content(pair: Pair) -> str:
    """Return a hash of what is measured: both files, and whether the first is enlarged."""
    digest = hashlib.sha256(b"enlarged" if pair.enlarge else b"")
    for path in (pair.sr, pair.hq):
        digest.update(_hash(path))
    return digest.hexdigest()[:16]


def input_content(pair: Pair) -> str:
    """Return a hash of what a picture was restored from."""
    return _hash(pair.lq).hex()[:16]


def _hash(path: Path | None) -> bytes:
    try:
        return hashlib.sha256(b"" if path is None else path.read_bytes()).digest()
    except OSError as error:
        raise OSEDiffError(f"{path} cannot be read: {error.strerror}") from error


def _most_shared(
    restored: Sequence[Path], originals: Sequence[Path], places: tuple[Path, Path]
) -> tuple[tuple[str, str], tuple[dict[str, Path], dict[str, Path]]]:
    """Return the ends to take off, and the names without them, that most pictures of both sides share."""
    mine, yours = shared_end(restored), shared_end(originals)
    best = None
    for ends in (("", ""), (mine, ""), ("", yours), (mine, yours)):
        names = _by_name(restored, places[0], ends[0]), _by_name(originals, places[1], ends[1])
        shared = len(names[0].keys() & names[1].keys())
        if best is None or shared > best[0]:
            best = shared, ends, names
    assert best is not None
    return best[1], best[2]


def shared_end(files: Sequence[Path]) -> str:
    """Return the end that all names share, from a separator on: "_HR" for a_HR.png and b_HR.png.

    Of a single name it is what follows its last separator; a name keeps at least one letter.
    """
    names = [path.stem for path in files]
    if len(names) == 1:
        starts = [i for i, letter in enumerate(names[0]) if letter in SEPARATORS and i > 0]
        return names[0][starts[-1] :] if starts else ""
    length = 0
    while len({name[1:][-length - 1 :] for name in names}) == 1 and length < min(map(len, names)) - 1:
        length += 1
    end = names[0][len(names[0]) - length :]
    starts = [i for i, letter in enumerate(end) if letter in SEPARATORS]
    return end[starts[0] :] if starts else ""


def _by_name(files: Sequence[Path], place: Path, end: str) -> dict[str, Path]:
    """Name the files without a shared end; OSEDiffError where two get one name."""
    names: dict[str, Path] = {}
    for path in files:
        name = path.stem.removesuffix(end)
        if name in names:
            raise OSEDiffError(
                f"expected one picture of each name in {place}, got {names[name].name} and {path.name}: "
                "leave one out"
            )
        names[name] = path
    return names


def _without(ends: tuple[str, str]) -> str:
    taken = [end for end in ends if end]
    return f", without {' and '.join(taken)}" if taken else ""


def _some(names: set[str]) -> str:
    """Name the first few of many."""
    rest = len(names) - NAMED
    return ", ".join(sorted(names)[:NAMED]) + (f" and {rest} more" if rest > 0 else "")

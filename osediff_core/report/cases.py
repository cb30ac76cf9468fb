"""The pictures of a report: one crop of every version of a picture, and where each differs from another."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import OSEDiffError
from ..pictures.images import read_image
from ..pictures.previews import encode_webp, shrink
from ..resize import resize_bicubic

PICTURE_BYTES = 48 << 20
"""What all crops of a page take at most, base64 apart, which adds a third."""
MOST_CASES = 200
"""Pictures of a page; of more, the caller's first."""
FULL_SIDE = 1024
"""Pixels of a crop's side, where the bytes allow it; a picture that is no larger is shown whole."""
LEAST_SIDE = 16
QUALITY = 90
"""WebP quality of all crops: to make a page smaller, crops are made smaller, never worse."""
THUMBNAIL, THUMBNAIL_QUALITY = 96, 75
GAIN = 4
"""Levels of a difference map for each level of difference."""


@dataclass(frozen=True)
class View:
    """One version of a picture: a file, enlarged to the others' size or of that size already.

    note: what is said of it, its measures say. part: (top, left, height, width) of a file that holds several
    pictures.
    """

    label: str
    path: Path
    enlarged: Literal["", "nearest", "bicubic"] = ""
    note: str = ""
    part: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Case:
    """One picture in several versions.

    main, compared_with: indices of views; the size of `main` is that of all. cells: values for the table of
    pictures.
    """

    name: str
    views: Sequence[View]
    main: int
    compared_with: int
    cells: Sequence[str] = ()


@dataclass(frozen=True)
class Shown:
    """A view in a page: its crop and its difference map as data: URIs; no map is ""."""

    label: str
    note: str
    picture: str
    difference: str


@dataclass(frozen=True)
class ShownCase:
    """A case in a page.

    thumbnail: the whole picture as a data: URI. part: what the crop is of, in words. size: (height, width)
    of the crop. change: mean absolute difference of `main` from `compared_with` over the whole picture,
    levels of 255.
    """

    case: Case
    thumbnail: str
    views: Sequence[Shown]
    part: str
    size: tuple[int, int]
    change: float


def show_case(case: Case, most_bytes: int) -> ShownCase:
    """Read a case's files and make its pictures, of `most_bytes` together, from where it differs most.

    Raises OSEDiffError, naming the file, for one that cannot be read or has another size than `main`.
    """
    pictures = _read(case)  # each (1, 3, H, W)
    other = pictures[case.compared_with]
    maps = [None if i == case.compared_with else _difference(p, other) for i, p in enumerate(pictures)]
    difference = maps[case.main]
    assert difference is not None
    top, left, height, width, encoded = _crops(pictures, maps, difference, most_bytes)
    whole = tuple(other.shape[-2:])
    part = f"{width}×{height}"
    if (height, width) != whole:
        part = f"{width}×{height} of {whole[1]}×{whole[0]}, at {left}, {top}, where most differs"
    shown = [Shown(v.label, v.note, *map(_uri, both)) for v, both in zip(case.views, encoded, strict=True)]
    thumbnail = _uri(encode_webp(shrink(pictures[case.main], THUMBNAIL), THUMBNAIL_QUALITY))
    return ShownCase(case, thumbnail, shown, part, (height, width), difference.float().mean().item())


def _read(case: Case) -> list[Tensor]:
    """All views of a case at the size of its main one, uint8 (1, 3, H, W)."""
    files = {path: read_image(path).rgb for path in {view.path for view in case.views}}
    shown = [_part(files[view.path], view.part) for view in case.views]
    size = tuple(shown[case.main].shape[-2:])
    pictures = []
    for view, rgb in zip(case.views, shown, strict=True):
        if view.enlarged:
            rgb = _enlarged(rgb, (size[0], size[1]), nearest=view.enlarged == "nearest")
        if tuple(rgb.shape[-2:]) != size:
            raise OSEDiffError(
                f"expected {view.path} at {size[1]}x{size[0]} as the others, "
                f"got {rgb.shape[3]}x{rgb.shape[2]}: restore it at the same scale"
            )
        pictures.append(rgb)
    return pictures


def _part(rgb: Tensor, part: tuple[int, int, int, int] | None) -> Tensor:
    if part is None:
        return rgb
    top, left, height, width = part
    return rgb[..., top : top + height, left : left + width]


def _enlarged(rgb: Tensor, size: tuple[int, int], *, nearest: bool) -> Tensor:
    """Resize to `size`; where the shape differs by more than rounding, cover it and keep the middle."""
    height, width = rgb.shape[-2:]
    scale = max(size[0] / height, size[1] / width)
    whole = max(size[0], round(height * scale)), max(size[1], round(width * scale))
    if abs(whole[0] - size[0]) <= 1 and abs(whole[1] - size[1]) <= 1:
        whole = size
    if not nearest:
        return resize_bicubic(rgb, whole, size)
    top, left = (whole[0] - size[0]) // 2, (whole[1] - size[1]) // 2
    return F.interpolate(rgb, whole, mode="nearest-exact")[..., top : top + size[0], left : left + size[1]]


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the channels, rounded: uint8 (1, 1, H, W)."""
    total = torch.zeros_like(a[:, :1], dtype=torch.int16)
    for channel in range(a.shape[1]):  # one by one: pictures may be huge
        total += (a[:, channel, None].short() - b[:, channel, None].short()).abs()
    return (total.float() / a.shape[1]).round().to(torch.uint8)


def _crops(
    pictures: Sequence[Tensor], maps: Sequence[Tensor | None], difference: Tensor, most_bytes: int
) -> tuple[int, int, int, int, list[tuple[bytes, bytes]]]:
    """Top, left, height, width, and of each picture its crop and map encoded; smaller until they fit."""
    side = min(FULL_SIDE, max(difference.shape[-2:]))
    while True:
        top, left, height, width = _most_different(difference, side)
        cut = (..., slice(top, top + height), slice(left, left + width))
        encoded = [
            (encode_webp(p[cut], QUALITY), b"" if m is None else encode_webp(_visible(m[cut]), QUALITY))
            for p, m in zip(pictures, maps, strict=True)
        ]
        total = sum(len(one) for both in encoded for one in both)
        if total <= most_bytes or side <= LEAST_SIDE:
            return top, left, height, width, encoded
        side = max(LEAST_SIDE, int(side * min(0.9, math.sqrt(most_bytes / total))))


def _most_different(difference: Tensor, side: int) -> tuple[int, int, int, int]:
    """Find the window with the largest mean among those half a side apart: top, left, height, width."""
    height, width = (min(side, whole) for whole in difference.shape[-2:])
    down, right = max(1, height // 2), max(1, width // 2)
    means = F.avg_pool2d(difference.float(), (height, width), (down, right))
    row, column = divmod(int(means.argmax()), means.shape[-1])
    return row * down, column * right, height, width


def _visible(difference: Tensor) -> Tensor:
    """Amplify a difference map for the eye, uint8."""
    return (difference.short() * GAIN).clamp(max=255).to(torch.uint8)


def _uri(content: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}" if content else ""

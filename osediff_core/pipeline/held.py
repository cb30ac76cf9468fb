"""Pictures as callers hold them (a path, Pillow's, an array), restored as tensors and given back alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from ..errors import OSEDiffError
from ..pictures.deep import ENCODERS
from ..pictures.files import check_target, format_of
from ..pictures.images import from_pillow, read_image, to_pillow, write_image
from ..resize import resize_alpha, target_size

Restore = Callable[..., Tensor]
DEEPEST = 65535  # levels of uint16


def restore_held(restore: Restore, picture: object, to: str | Path | None, options: dict[str, Any]) -> object:
    """Return a picture restored, as what it came as: the same class, layout and type of numbers.

    Pillow's comes back as grey (L, of 16 bits I;16) or RGB, and with its alpha (LA, RGBA). restore: of
    tensors, which gets `options`. to: where the result of a path goes, which is given back; None: beside it,
    NAME_restored.png, if there is no such file. Raises OSEDiffError for what is no picture.
    """
    if isinstance(picture, str | Path):
        return _restore_file(restore, picture, to, options)
    if isinstance(picture, np.ndarray):
        return _restore_array(restore, picture, options)
    if not isinstance(picture, Image):
        raise OSEDiffError(
            f"a picture is a tensor, an array, Pillow's, or a path, got {type(picture).__name__}: convert it"
        )
    held = from_pillow(picture)
    dtype = torch.float32 if held.deep else torch.uint8
    sr, alpha = _restore_with_alpha(restore, held.rgb, held.alpha, options | {"dtype": dtype})
    return to_pillow(sr, alpha, grey=held.grey, deep=held.deep)


def _restore_file(
    restore: Restore, source: str | Path, to: str | Path | None, options: dict[str, Any]
) -> str | Path:
    if not os.path.isfile(source):
        raise OSEDiffError(f"there is no picture file {str(source)!r}: name one")
    target = Path(source).with_name(f"{Path(source).stem}_restored.png") if to is None else Path(to)
    if to is None and target.exists():
        raise OSEDiffError(f"{target} exists; name a file by `to`, or take it away first")
    check_target(target)
    if target.exists() and target.samefile(source):
        raise OSEDiffError(f"{source} would be written over itself; name another file for the result")
    held = read_image(source, full=format_of(target) in ENCODERS)
    dtype = torch.float32 if held.deep else torch.uint8
    sr, alpha = _restore_with_alpha(restore, held.rgb, held.alpha, options | {"dtype": dtype})
    write_image(target, sr, alpha, held.exif, grey=held.grey, notes=held.notes, deep=held.deep)
    return type(source)(target)


def _restore_array(restore: Restore, array: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    """Restore (H, W), (H, W, C) or (B, H, W, C) of 1 to 4 channels: grey, RGB, the last of 2 or 4 alpha."""
    shaped = array[None, ..., None] if array.ndim == 2 else array[None] if array.ndim == 3 else array
    if shaped.ndim != 4 or 0 in shaped.shape or shaped.shape[-1] > 4:
        raise OSEDiffError(
            f"an array is (H, W), (H, W, C) or (B, H, W, C) of 1 to 4 channels, got {array.shape}: channels "
            "come last here, and first in tensors"
        )
    deep = array.dtype.newbyteorder("=") == np.uint16  # in either order of bytes
    if array.dtype != np.uint8 and not deep and array.dtype.kind != "f":
        raise OSEDiffError(
            f"an array is uint8, uint16, or float in [0, 1], got {array.dtype}: convert it first"
        )
    values = shaped.astype(np.float32) / DEEPEST if deep else shaped
    values = values.astype(np.float32) if values.dtype.kind == "f" else values
    x = torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))  # (B, C, H, W)
    colours = 3 if shaped.shape[-1] > 2 else 1
    rgb, alpha = x[:, :colours].expand(-1, 3, -1, -1), x[:, colours:]  # (B, 3, H, W), (B, 1 or 0, H, W)
    dtype = torch.uint8 if array.dtype == np.uint8 else torch.float32
    sr, alpha = _restore_with_alpha(
        restore, rgb, alpha if alpha.shape[1] else None, options | {"dtype": dtype}
    )
    out = torch.cat([sr[:, :colours], *([] if alpha is None else [alpha.to(sr.device)])], 1)
    result = out.permute(0, 2, 3, 1).cpu().numpy()  # (B, H', W', C)
    result = (np.rint(result * DEEPEST) if deep else result).astype(array.dtype)
    return result[0, ..., 0] if array.ndim == 2 else result[0] if array.ndim == 3 else result


def _restore_with_alpha(
    restore: Restore, rgb: Tensor, alpha: Tensor | None, options: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Return restored images, and their alpha in the same type of numbers."""
    sr = restore(rgb, alpha=alpha, **options)
    if alpha is None:
        return sr, None
    height, width = rgb.shape[-2:]
    resized = target_size(height, width, options["scale"])
    return sr, resize_alpha(alpha, resized, options["middle"] or resized)

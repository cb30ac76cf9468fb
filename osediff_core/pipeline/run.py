"""Restore images: `restore` is the steps in a row, and asks the device once whether all went well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..color import check_method, to_levels
from ..device.memory import Free, free_memory
from ..errors import OSEDiffError
from ..inputs import check_detail, check_image, check_prompts
from ..model import OSEDiff
from ..resize import target_size
from .overflow import AskLater, Check, finite
from .plan import Room, check_host, fits_on_device
from .steps import (
    Bring,
    Progress,
    decode,
    denoise,
    encode,
    encode_prompt,
    finish,
    prepare,
    stays,
    tile_and_overlap,
)
from .tiling import Box, grid

DTYPES_OUT = (torch.float32, torch.uint8)


@torch.no_grad()
def restore(
    model: OSEDiff,
    lq: Tensor,
    *,
    scale: float = 4.0,
    prompt: str | Sequence[str] = "",
    color: str = "adain",
    tile: str | int = "auto",
    overlap: int = 32,
    detail: float = 1.0,
    progress: Progress | None = None,
    vae: str | int = "auto",
    spill: str | Path | None = None,
    tile_prompt: Callable[[Tensor], str] | None = None,
    chunk: int = 1,
    free: Free = free_memory,
    bring: Bring = stays,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the restored images, (B, 3, H', W') float32 in [0, 1] on lq's device, H' = floor(scale H + 0.5).

    lq: (B, 3, H, W), uint8 or float in [0, 1], any size from 1x1. prompt: one for all images or one for each.
    color: adain, wavelet or none. tile: "auto" (whole up to 96 x 96 latent pixels, else tiles of 96; as much
    of the picture where the VAE's reduction is below 8), "off", or the side in latent pixels. detail: how far
    the step goes, from 0 to 2; 1 is as trained, less is nearer to the input. progress(done, total) is
    called after every tile of the UNet, and once per image for encoding and decoding, or after every piece of
    it; it may raise to cancel.

    vae: "auto" (whole where it fits, else in exact pieces), "whole", or the pieces' side in pixels. spill: a
    folder for what even pieces have to keep. tile_prompt: gives a prompt for the pixels of each of the UNet's
    tiles, (1, 3, h, w) in [0, 1], in place of `prompt`. chunk: how many images go through a step together
    before the next step. free(device): the bytes there are, None if unknown. bring(step, height, width) is
    told before each step its name here, and what it works on in pixels, so that it can fetch its part of the
    model; of encode_prompt only where a text is new. dtype: float32, or uint8 for levels of 255, rounded on
    the model's device. None of these changes a picture by more than the last bits of its sums, but
    tile_prompt. The same input always gives the same output. Raises OSEDiffError for what cannot be restored.
    """
    check_method(color)
    check_detail(detail)
    check_image(lq)
    if dtype not in DTYPES_OUT:
        raise OSEDiffError(f"a restored image is float32 or uint8, got {dtype}: convert it afterwards")
    room = Room(vae, None if spill is None else Path(spill), free)
    size = target_size(lq.shape[-2], lq.shape[-1], scale)
    check_host(*size, len(lq), room)
    down, across = (-(-side // model.reduction) for side in size)
    boxes = grid(down, across, *tile_and_overlap(tile, overlap, model.reduction))
    prompts = check_prompts(prompt, len(lq))
    embeds = None
    if tile_prompt is None:
        embeds = encode_prompt(model, prompts, bring)  # (1 or B, L, D)
    padded = down * model.reduction, across * model.reduction
    settings = _Settings(scale, color, tile, overlap, detail, room, padded, boxes, tile_prompt, bring, dtype)
    out = torch.empty((len(lq), 3, *size), device=lq.device, dtype=dtype)
    each, later = 2 + len(boxes), AskLater()
    for part in torch.arange(len(lq)).split(_positive(chunk)):
        own = embeds if embeds is None or len(embeds) == 1 else embeds[part]
        report = _shifted(progress, int(part[0]) * each, len(lq) * each)
        out[part] = _restore_part(model, lq[part], own, settings, report, later)
    return out


@dataclass(frozen=True)
class _Settings:
    """What `restore` was asked for, and the (height, width) of the work and the tiles that follow from it."""

    scale: float
    color: str
    tile: str | int
    overlap: int
    detail: float
    room: Room
    padded: tuple[int, int]
    boxes: list[Box]
    tile_prompt: Callable[[Tensor], str] | None
    bring: Bring
    dtype: torch.dtype


def _restore_part(
    model: OSEDiff,
    lq: Tensor,
    embeds: Tensor | None,
    settings: _Settings,
    report: Progress,
    later: AskLater,
) -> Tensor:
    """Restore some images (B, 3, H, W), and ask in the end, or from part to part, whether all is finite.

    report(done, total) counts within these. Asking from part to part follows where the answer was no, and is
    all there is where the picture does not lie on the device, or `later` was not worth it before.
    """
    room, padded = settings.room, settings.padded
    settings.bring("encode", *padded)
    there = fits_on_device(model, *padded, len(lq), room)
    x, size = prepare(lq, settings.scale, model.reduction, room, model.device if there else None)
    if embeds is None:
        assert settings.tile_prompt is not None
        embeds = _tile_embeds(model, x, settings, settings.tile_prompt)  # (B, T, L, D)
        settings.bring("encode", *padded)
    if there and later.worthwhile:
        sr = _steps(model, x, size, embeds, settings, report, later)  # (B, 3, H', W')
        found = _fetched(sr, later.all_finite(), lq.device)
        if found is not None:
            return found
        later.worthwhile = False
    return _steps(model, x, size, embeds, settings, report, finite).to(lq.device)


def _steps(
    model: OSEDiff,
    x: Tensor,
    size: tuple[int, int],
    embeds: Tensor,
    settings: _Settings,
    report: Progress,
    check: Check,
) -> Tensor:
    """Take prepared images (B, 3, h, w) through the steps, where they lie; returns (B, 3, *size)."""
    count, room = len(x), settings.room
    z_lq = encode(model, x, report, room, check)  # (B, C, h, w)
    report = _shifted(report, count, 0)
    settings.bring("denoise", *(side * model.reduction for side in settings.boxes[0][2:]))
    how = {"detail": settings.detail, "room": room, "check": check}
    z_hq = denoise(model, z_lq, embeds, settings.tile, settings.overlap, report, **how)
    report = _shifted(report, count * len(settings.boxes), 0)
    settings.bring("decode", *settings.padded)
    sr = decode(model, z_hq, report, room, check)  # (B, 3, h, w)
    sr = finish(sr, x, size, settings.color)  # (B, 3, H', W')
    return to_levels(sr) if settings.dtype == torch.uint8 else sr


def _fetched(sr: Tensor, good: Tensor, device: torch.device) -> Tensor | None:
    """Return `sr` on another device, or None unless `good`, which travels with it: one wait for both."""
    if sr.device == device:
        return sr if bool(good) else None
    packed = torch.cat([sr.flatten(), good.to(sr.dtype)[None]]).to(device)
    return packed[:-1].view(sr.shape) if bool(packed[-1]) else None


def _tile_embeds(
    model: OSEDiff, x: Tensor, settings: _Settings, tile_prompt: Callable[[Tensor], str]
) -> Tensor:
    """Return the embeddings of the prompts that the tiles' own pixels give, (B, T, L, D)."""
    f = model.reduction
    images = []
    for image in x.split(1):
        cut = [
            image[..., b.y * f : (b.y + b.height) * f, b.x * f : (b.x + b.width) * f] for b in settings.boxes
        ]
        images.append(encode_prompt(model, [tile_prompt(tile) for tile in cut], settings.bring))
    return torch.stack(images)


def _shifted(progress: Progress | None, base: int, total: int) -> Progress:
    """Return a callback that counts on from `base`, up to `total` or, where that is 0, to what it is told."""

    def report(done: int, most: int) -> None:
        if progress is not None:
            progress(base + done, total or most)

    return report


def _positive(chunk: int) -> int:
    if chunk < 1:
        raise OSEDiffError(f"images go through the steps at least 1 at a time, got chunk {chunk}")
    return chunk

"""Restore images: resize, encode, denoise once, decode, match colours. `restore` is the unrolled graph.

The steps compute on the model's device, image by image, and answer on the device of what they were given, so
that a long batch needs the memory of one image. None of them records gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .color import check_method, match_color
from .errors import OSEDiffError
from .finite import finite
from .inputs import check_detail, check_embeds, check_image, check_prompts, check_texts
from .memory import Free, free_memory
from .model import OSEDiff
from .offload import resident
from .resize import crop, pad_to_multiple, resize_bicubic, target_size
from .room import AUTO, Room, check_host, decode_latent, encode_image
from .tiling import Box, grid
from .unet_tiles import predict_noise_in_tiles

Progress = Callable[[int, int], None]
Bring = Callable[[str, int, int], object]
AUTO_TILE = 96  # latent pixels: the published tile, which never depends on free memory


def stays(step: str, height: int, width: int) -> None:
    """Move nothing: every part of the model is where it has to be."""


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
) -> Tensor:
    """Return the restored images, (B, 3, H', W') float32 in [0, 1] on lq's device, H' = floor(scale H + 0.5).

    lq: (B, 3, H, W), uint8 or float in [0, 1], any size from 1x1. prompt: one for all images or one for each.
    color: adain, wavelet or none. tile: "auto" (whole up to 96 x 96 latent pixels, else tiles of 96), "off",
    or the tile's side in latent pixels. detail: how far the step goes, from 0 to 2; 1 is as trained, less is
    nearer to the input. progress(done, total) is called after every tile of the UNet, and once per image for
    encoding and decoding, or after every piece of it; it may raise to cancel.

    vae: "auto" (whole where it fits, else in exact pieces), "whole", or the pieces' side in pixels. spill: a
    folder for what even pieces have to keep. tile_prompt: gives a prompt for the pixels of each of the UNet's
    tiles, (1, 3, h, w) in [0, 1], in place of `prompt`. chunk: how many images go through a step together
    before the next step. free(device): the bytes there are, None if unknown. bring(step, height, width) is
    told before each step its name here, and what it works on in pixels, so that it can fetch its part of the
    model. None of these changes a picture by more than the last bits of its sums, but tile_prompt. The same
    input always gives the same output. Raises OSEDiffError for what cannot be restored.
    """
    check_method(color)
    check_detail(detail)
    check_image(lq)
    room = Room(vae, None if spill is None else Path(spill), free)
    size = target_size(lq.shape[-2], lq.shape[-1], scale)
    check_host(*size, len(lq), room)
    down, across = (-(-side // model.reduction) for side in size)
    boxes = grid(down, across, tile_side(tile), overlap)
    prompts = check_prompts(prompt, len(lq))
    embeds = None
    if tile_prompt is None:
        bring("encode_prompt", 0, 0)
        embeds = encode_prompt(model, prompts)  # (1 or B, L, D)
    settings = _Settings(scale, color, tile, overlap, detail, room, boxes, tile_prompt, bring)
    out = torch.empty((len(lq), 3, *size), device=lq.device)
    each = 2 + len(boxes)
    for part in torch.arange(len(lq)).split(_positive(chunk)):
        own = embeds if embeds is None or len(embeds) == 1 else embeds[part]
        report = _shifted(progress, int(part[0]) * each, len(lq) * each)
        out[part] = _restore_part(model, lq[part], own, settings, report)
    return out


@dataclass(frozen=True)
class _Settings:
    """What `restore` was asked for, and the tiles that follow from it."""

    scale: float
    color: str
    tile: str | int
    overlap: int
    detail: float
    room: Room
    boxes: list[Box]
    tile_prompt: Callable[[Tensor], str] | None
    bring: Bring


def _restore_part(
    model: OSEDiff, lq: Tensor, embeds: Tensor | None, settings: _Settings, report: Progress
) -> Tensor:
    """Restore some images (B, 3, H, W), step by step; report(done, total) counts within these."""
    count, room = len(lq), settings.room
    x, size = prepare(lq, settings.scale, model.reduction, room)  # (B, 3, h, w) padded
    if embeds is None:
        assert settings.tile_prompt is not None
        settings.bring("encode_prompt", 0, 0)
        embeds = _tile_embeds(model, x, settings.boxes, settings.tile_prompt)  # (B, T, L, D)
    settings.bring("encode", *x.shape[-2:])
    z_lq = encode(model, x, report, room)  # (B, C, h, w)
    report = _shifted(report, count, 0)
    tile, overlap = settings.tile, settings.overlap
    settings.bring("denoise", *(side * model.reduction for side in settings.boxes[0][2:]))
    z_hq = denoise(model, z_lq, embeds, tile, overlap, report, detail=settings.detail, room=room)
    report = _shifted(report, count * len(settings.boxes), 0)
    settings.bring("decode", *x.shape[-2:])
    sr = decode(model, z_hq, report, room)  # (B, 3, h, w)
    return finish(sr, x, size, settings.color)  # (B, 3, H', W')


def _tile_embeds(
    model: OSEDiff, x: Tensor, boxes: Sequence[Box], tile_prompt: Callable[[Tensor], str]
) -> Tensor:
    """Return the embeddings of the prompts that the tiles' own pixels give, (B, T, L, D)."""
    f = model.reduction
    images = []
    for image in x.split(1):
        tiles = [image[..., b.y * f : (b.y + b.height) * f, b.x * f : (b.x + b.width) * f] for b in boxes]
        images.append(encode_prompt(model, [tile_prompt(tile) for tile in tiles]))
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


def prepare(
    lq: Tensor,
    scale: float,
    reduction: int,
    room: Room = AUTO,
) -> tuple[Tensor, tuple[int, int]]:
    """Resize and pad: return a float image in [0, 1] whose sides `reduction` divides, and its true size.

    Raises OSEDiffError, before anything is made, where the host's memory cannot hold the results.
    """
    check_image(lq)
    size = target_size(lq.shape[-2], lq.shape[-1], scale)
    check_host(*size, len(lq), room)
    resized = resize_bicubic(lq, size)
    x = resized.float() / 255 if resized.dtype == torch.uint8 else resized  # (B, 3, H', W')
    return pad_to_multiple(x, reduction), size


@torch.no_grad()
def encode_prompt(model: OSEDiff, prompts: Sequence[str]) -> Tensor:
    """Return the embeddings of the prompts, (B, L, D); the model keeps those of the texts that came last."""
    texts = check_texts(prompts)

    def compute(missing: Sequence[str]) -> Iterator[Tensor]:
        with resident(model.offload_to, model.text_encoder), torch.inference_mode(False), torch.no_grad():
            for text in missing:
                yield finite("prompt embedding", model.text_encoder, partial(model.encode_prompt, [text]))

    return model.embeddings.of(model.text_encoder, texts, compute)


@torch.no_grad()
def encode(model: OSEDiff, x: Tensor, progress: Progress | None = None, room: Room = AUTO) -> Tensor:
    """Return the latents z_lq of images (B, 3, H, W) in [0, 1], (B, C, h, w).

    room: how memory is used. progress(done, total) counts images, and is called with what it was called with
    last after every piece of one.
    """

    def one(image: Tensor, beat: Callable[[], None]) -> Tensor:
        return finite("encoded latent", model.vae, lambda: encode_image(model, image, room, beat))

    with resident(model.offload_to, model.vae.encoder, model.vae.quant_conv):
        return _each(one, x, progress)


@torch.no_grad()
def denoise(
    model: OSEDiff,
    z: Tensor,
    prompt_embeds: Tensor,
    tile: str | int = "auto",
    overlap: int = 32,
    progress: Progress | None = None,
    *,
    detail: float = 1.0,
    room: Room = AUTO,
) -> Tensor:
    """Return the restored latents z_hq of z_lq, (B, C, h, w) float32: the one diffusion step.

    prompt_embeds: (1, L, D) or (B, L, D), or with a prompt for each of the T tiles of `grid`, (1, T, L, D) or
    (B, T, L, D). progress(done, total) counts the UNet's tiles over all images. detail: z_lq + detail
    (z_hq - z_lq) is returned; 1, the model as trained, is z_hq bit for bit. room: how memory is used; how
    many tiles run at once changes nothing but the last bits.
    """
    check_detail(detail)
    side = tile_side(tile)
    tiles = len(grid(z.shape[-2], z.shape[-1], side, overlap))
    check_embeds(prompt_embeds, len(z), tiles)
    tick = _counter(progress, len(z) * tiles)
    if prompt_embeds.ndim == 3:
        prompt_embeds = prompt_embeds[:, None]  # (1 or B, 1, L, D)
    out = []
    with resident(model.offload_to, model.unet):
        prompt_embeds = prompt_embeds.to(model.device, model.dtype)  # not once more for every tile
        for one, embeds in zip(z.split(1), prompt_embeds.expand(len(z), -1, -1, -1), strict=True):
            # UNet and closed form must see one rounded latent: the latter amplifies a difference 15 times.
            z_lq = one.to(model.device, model.dtype)  # (1, C, h, w)
            eps = predict_noise_in_tiles(model, z_lq, embeds, side, overlap, room, tick)  # (1, C, h, w)
            out.append(_go(detail, z_lq, model.predict_x0(z_lq, eps)).to(z.device))
    return torch.cat(out)  # (B, C, h, w)


@torch.no_grad()
def decode(model: OSEDiff, z: Tensor, progress: Progress | None = None, room: Room = AUTO) -> Tensor:
    """Return the images of latents (B, C, h, w), (B, 3, H, W) float32 in [0, 1]; the rest as in `encode`."""

    def one(latent: Tensor, beat: Callable[[], None]) -> Tensor:
        image = finite("decoded image", model.vae, lambda: decode_latent(model, latent, room, beat))
        return image.clamp_(0, 1)

    with resident(model.offload_to, model.vae.decoder, model.vae.post_quant_conv):
        return _each(one, z, progress)


@torch.no_grad()
def finish(sr: Tensor, reference: Tensor, size: tuple[int, int], color: str = "adain") -> Tensor:
    """Crop both images to `size` and give `sr` the reference's colours, (B, 3, *size) float32 in [0, 1]."""
    return match_color(crop(sr, size), crop(reference, size).to(sr.device), color)


def _go(detail: float, z_lq: Tensor, z_hq: Tensor) -> Tensor:
    """Return the latent that lies `detail` of the way from z_lq to z_hq, (B, C, h, w) float32."""
    return z_hq if detail == 1 else torch.lerp(z_lq.float(), z_hq, detail)


def tile_side(tile: str | int) -> int | None:
    """Return the side of the UNet's tiles in latent pixels for a setting, None for the whole picture."""
    if tile == "auto":
        return AUTO_TILE
    if tile == "off":
        return None
    if isinstance(tile, int) and not isinstance(tile, bool):
        return tile
    raise OSEDiffError(f"the tile is auto, off, or a number of latent pixels, got {tile!r}")


def _each(
    fn: Callable[[Tensor, Callable[[], None]], Tensor], batch: Tensor, progress: Progress | None
) -> Tensor:
    """Return `fn` of every image of a batch, on the batch's device."""
    report = progress or (lambda done, total: None)
    out = []
    for done, one in enumerate(batch.split(1)):
        out.append(fn(one, partial(report, done, len(batch))).to(batch.device))
        report(done + 1, len(batch))
    return out[0] if len(out) == 1 else torch.cat(out)


def _counter(progress: Progress | None, total: int) -> Progress:
    """Return a callback that counts its calls up to `total`."""
    done = 0

    def tick(*_: int) -> None:
        nonlocal done
        done = min(done + 1, total)  # where smaller tiles had to take over, there are more than foreseen
        if progress is not None:
            progress(done, total)

    return tick

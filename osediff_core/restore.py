"""Restore images: resize, encode, denoise once, decode, match colours. `restore` is the unrolled graph.

The steps compute on the model's device, image by image, and answer on the device of what they were given, so
that a long batch needs the memory of one image. None of them records gradients.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .base import convert
from .color import check_method, match_color
from .errors import OSEDiffError
from .model import OSEDiff
from .resize import crop, pad_to_multiple, resize_bicubic, target_size
from .tiling import Box, grid, tiled

Progress = Callable[[int, int], None]
MOST_DETAIL = 2.0  # beyond, latents are far from any that the decoder has seen
AUTO_TILE = 96  # latent pixels: the published tile, which never depends on free memory

logger = logging.getLogger(__name__)


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
) -> Tensor:
    """Return the restored images, (B, 3, H', W') float32 in [0, 1] on lq's device, H' = floor(scale H + 0.5).

    lq: (B, 3, H, W), uint8 or float in [0, 1], any size from 1x1. prompt: one for all images or one for each.
    color: adain, wavelet or none. tile: "auto" (whole up to 96 x 96 latent pixels, else tiles of 96), "off",
    or the tile's side in latent pixels. detail: how far the step goes, from 0 to 2; 1 is as trained, less is
    nearer to the input. progress(done, total) is called after every tile of the UNet, and once per image for
    encoding and decoding; it may raise to cancel. The same input always gives the same output. Raises
    OSEDiffError for what cannot be restored.
    """
    check_method(color)
    check_detail(detail)
    x, size = prepare(lq, scale, model.reduction)  # (B, 3, h, w) padded
    count = len(lq)
    height, width = (side // model.reduction for side in x.shape[-2:])
    tick = _counter(progress, count * (2 + len(grid(height, width, tile_side(tile), overlap))))
    embeds = encode_prompt(model, _prompts(prompt, count))  # (1 or B, L, D)
    z_lq = encode(model, x, tick)  # (B, C, h, w)
    z_hq = denoise(model, z_lq, embeds, tile, overlap, tick, detail=detail)  # (B, C, h, w)
    sr = decode(model, z_hq, tick)  # (B, 3, h, w)
    return finish(sr, x, size, color)  # (B, 3, H', W')


def prepare(lq: Tensor, scale: float, reduction: int) -> tuple[Tensor, tuple[int, int]]:
    """Resize and pad: return a float image in [0, 1] whose sides `reduction` divides, and its true size."""
    _check_image(lq)
    size = target_size(lq.shape[-2], lq.shape[-1], scale)
    resized = resize_bicubic(lq, size)
    x = resized.float() / 255 if resized.dtype == torch.uint8 else resized  # (B, 3, H', W')
    return pad_to_multiple(x, reduction), size


@torch.no_grad()
def encode_prompt(model: OSEDiff, prompts: Sequence[str]) -> Tensor:
    """Return the embeddings of the prompts, (B, L, D)."""
    return _finite("prompt embedding", model.text_encoder, lambda: model.encode_prompt(prompts))


@torch.no_grad()
def encode(model: OSEDiff, x: Tensor, progress: Progress | None = None) -> Tensor:
    """Return the latents z_lq of images (B, 3, H, W) in [0, 1], (B, C, h, w)."""

    def one(image: Tensor) -> Tensor:
        image = image.to(model.device)
        return _finite("encoded latent", model.vae, lambda: model.encode(image))

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
) -> Tensor:
    """Return the restored latents z_hq of z_lq, (B, C, h, w) float32: the one diffusion step.

    prompt_embeds: (1, L, D) or (B, L, D). progress(done, total) counts the UNet's tiles over all images.
    detail: z_lq + detail (z_hq - z_lq) is returned; 1, the model as trained, is z_hq bit for bit.
    """
    check_detail(detail)
    if len(prompt_embeds) not in (1, len(z)):
        raise OSEDiffError(f"got {len(prompt_embeds)} prompts for {len(z)} images: give one, or one for each")
    side = tile_side(tile)
    tick = _counter(progress, len(z) * len(grid(z.shape[-2], z.shape[-1], side, overlap)))
    out = []
    for one, embeds in zip(z.split(1), prompt_embeds.expand(len(z), -1, -1).split(1), strict=True):
        # UNet and closed form must see the same rounded latent: the latter amplifies a difference 15 times.
        z_lq = one.to(model.device, model.dtype)  # (1, C, h, w)

        def noise(patch: Tensor, boxes: Sequence[Box], embeds: Tensor = embeds) -> Tensor:
            return _finite("predicted noise", model.unet, lambda: model.predict_noise(patch, embeds))

        eps = tiled(noise, z_lq, side, overlap, tick)  # (1, C, h, w)
        out.append(_go(detail, z_lq, model.predict_x0(z_lq, eps)).to(z.device))
    return torch.cat(out)  # (B, C, h, w)


@torch.no_grad()
def decode(model: OSEDiff, z: Tensor, progress: Progress | None = None) -> Tensor:
    """Return the images of latents (B, C, h, w), (B, 3, H, W) float32 in [0, 1]."""

    def one(latent: Tensor) -> Tensor:
        latent = latent.to(model.device)
        return _finite("decoded image", model.vae, lambda: model.decode_unclamped(latent)).clamp(0, 1)

    return _each(one, z, progress)


@torch.no_grad()
def finish(sr: Tensor, reference: Tensor, size: tuple[int, int], color: str = "adain") -> Tensor:
    """Crop both images to `size` and give `sr` the reference's colours, (B, 3, *size) float32 in [0, 1]."""
    return match_color(crop(sr, size), crop(reference, size).to(sr.device), color)


def check_detail(detail: float) -> None:
    """Raise OSEDiffError unless `detail` is a number from 0 to MOST_DETAIL."""
    if not 0 <= detail <= MOST_DETAIL:
        raise OSEDiffError(f"the detail is from 0 to {MOST_DETAIL:g}, 1 is as trained, got {detail}")


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


def _each(fn: Callable[[Tensor], Tensor], batch: Tensor, progress: Progress | None) -> Tensor:
    """Return `fn` of every image of a batch, on the batch's device."""
    out = []
    for done, one in enumerate(batch.split(1), start=1):
        out.append(fn(one).to(batch.device))
        if progress is not None:
            progress(done, len(batch))
    return torch.cat(out)


def _finite(part: str, module: nn.Module, compute: Callable[[], Tensor]) -> Tensor:
    """Return what `compute` gives, once more in float32 if it is not finite, or raise OSEDiffError."""
    out = compute()
    if out.isfinite().all():
        return out
    dtype = next(module.parameters()).dtype
    name = str(dtype).removeprefix("torch.")
    if dtype != torch.float32:
        logger.warning("the %s is not finite in %s; computing it once more in float32", part, name)
        convert(module, torch.float32)
        try:
            out = compute()
        finally:
            convert(module, dtype)
        if out.isfinite().all():
            return out
        name += " nor in float32"
    raise OSEDiffError(f"the {part} is not finite in {name}: check the weights, or try another dtype or base")


def _counter(progress: Progress | None, total: int) -> Progress:
    """Return a callback that counts its calls up to `total`, whatever parts of the work they come from."""
    done = 0

    def tick(*_: int) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return tick


def _prompts(prompt: str | Sequence[str], count: int) -> list[str]:
    """Return the prompt for all images, or one for each."""
    if isinstance(prompt, str):
        return [prompt]
    prompts = list(prompt)
    if len(prompts) != count:
        raise OSEDiffError(
            f"got {len(prompts)} prompts for {count} images: give one text, or one for each image"
        )
    return prompts


def _check_image(lq: Tensor) -> None:
    """Raise OSEDiffError unless `lq` is (B, 3, H, W), not empty, and uint8 or finite floats in [0, 1]."""
    if not isinstance(lq, Tensor):
        raise OSEDiffError(
            f"an image batch is a torch tensor, got {type(lq).__name__}: read files with read_image"
        )
    if lq.ndim != 4 or lq.shape[1] != 3 or 0 in lq.shape:
        raise OSEDiffError(f"an image batch is (B, 3, H, W) and not empty, got {tuple(lq.shape)}")
    if lq.dtype == torch.uint8:
        return
    if not lq.is_floating_point():
        raise OSEDiffError(f"an image is uint8, or float in [0, 1], got {lq.dtype}: convert it first")
    if not lq.isfinite().all():
        raise OSEDiffError("the image has values that are not numbers (NaN or infinite): check what made it")
    low, high = lq.min().item(), lq.max().item()
    if low < -0.5 or high > 1.5:
        raise OSEDiffError(
            f"a float image is in [0, 1], got values from {low:g} to {high:g}: rescale it first"
        )

"""The steps of a restoration: resize, encode, denoise once, decode, match colours.

Each computes on the model's device, image by image, and answers on the device of what it was given. None
records gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from ..color import match_color
from ..device.memory import upload
from ..device.offload import resident
from ..errors import OSEDiffError
from ..inputs import check_detail, check_embeds, check_image, check_texts
from ..model import OSEDiff
from ..resize import crop, pad_to_multiple, resize_bicubic, target_size
from .overflow import Check, finite
from .plan import AUTO, Room, check_host, decode_latent, encode_image
from .tiling import grid
from .unet_tiles import predict_noise_in_tiles

Progress = Callable[[int, int], None]
Bring = Callable[[str, int, int], object]
AUTO_TILE = 96  # latent pixels: the published tile, which never depends on free memory
AUTO_REDUCTION = 8  # Stable Diffusion's, for which the published tile was chosen: 768 pixels of the picture


def stays(step: str, height: int, width: int) -> None:
    """Move nothing: every part of the model is where it has to be."""


def prepare(
    lq: Tensor,
    scale: float,
    reduction: int,
    room: Room = AUTO,
    device: torch.device | None = None,
) -> tuple[Tensor, tuple[int, int]]:
    """Resize and pad: return a float image in [0, 1] whose sides `reduction` divides, and its true size.

    device: where it is to lie, None for where `lq` is; it travels before it becomes float. Raises
    OSEDiffError, before anything is made, where the host's memory cannot hold the results.
    """
    check_image(lq)
    size = target_size(lq.shape[-2], lq.shape[-1], scale)
    check_host(*size, len(lq), room)
    resized = upload(resize_bicubic(lq, size), device or lq.device)
    x = resized.float() / 255 if resized.dtype == torch.uint8 else resized  # (B, 3, H', W')
    return pad_to_multiple(x, reduction), size


@torch.no_grad()
def encode_prompt(model: OSEDiff, prompts: Sequence[str], bring: Bring = stays) -> Tensor:
    """Return the embeddings of the prompts, (B, L, D); the model keeps those of the texts that came last.

    bring: as in `restore`; it is told of this step only where a text is not kept.
    """
    texts = check_texts(prompts)

    def compute(missing: Sequence[str]) -> Iterator[Tensor]:
        bring("encode_prompt", 0, 0)
        with resident(model.offload_to, model.text_encoder), torch.inference_mode(False), torch.no_grad():
            for text in missing:
                yield finite("prompt embedding", model.text_encoder, partial(model.encode_prompt, [text]))

    return model.embeddings.of(model.text_encoder, texts, compute)


@torch.no_grad()
def encode(
    model: OSEDiff,
    x: Tensor,
    progress: Progress | None = None,
    room: Room = AUTO,
    check: Check = finite,
) -> Tensor:
    """Return the latents z_lq of images (B, 3, H, W) in [0, 1], (B, C, h, w).

    room: how memory is used. check: what is done about numbers that are not finite. progress(done, total)
    counts images, and is called with what it was called with last after every piece of one.
    """

    def one(image: Tensor, beat: Callable[[], None]) -> Tensor:
        return check("encoded latent", model.vae, lambda: encode_image(model, image, room, beat))

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
    check: Check = finite,
) -> Tensor:
    """Return the restored latents z_hq of z_lq, (B, C, h, w) float32: the one diffusion step.

    prompt_embeds: (1, L, D) or (B, L, D), or with a prompt for each of the T tiles of `grid`, (1, T, L, D) or
    (B, T, L, D). progress(done, total) counts the UNet's tiles over all images. detail: z_lq + detail
    (z_hq - z_lq) is returned; 1, the model as trained, is z_hq bit for bit. room: how memory is used; how
    many tiles run at once changes nothing but the last bits. check: as in `encode`.
    """
    check_detail(detail)
    side, overlap = tile_and_overlap(tile, overlap, model.reduction)
    tiles = len(grid(z.shape[-2], z.shape[-1], side, overlap))
    check_embeds(prompt_embeds, len(z), tiles)
    tick = _counter(progress, len(z) * tiles)
    if prompt_embeds.ndim == 3:
        prompt_embeds = prompt_embeds[:, None]  # (1 or B, 1, L, D)
    cut = {"side": side, "overlap": overlap, "room": room}
    predict = partial(predict_noise_in_tiles, **cut, progress=tick, check=check)
    out = []
    with resident(model.offload_to, model.unet):
        prompt_embeds = prompt_embeds.to(model.device, model.dtype)  # not once more for every tile
        for one, embeds in zip(z.split(1), prompt_embeds.expand(len(z), -1, -1, -1), strict=True):
            # UNet and closed form must see one rounded latent: the latter amplifies a difference 15 times.
            z_lq = one.to(model.device, model.dtype)  # (1, C, h, w)
            eps = predict(model, z_lq, embeds)  # (1, C, h, w)
            out.append(_go(detail, z_lq, model.predict_x0(z_lq, eps)).to(z.device))
    return torch.cat(out)  # (B, C, h, w)


@torch.no_grad()
def decode(
    model: OSEDiff,
    z: Tensor,
    progress: Progress | None = None,
    room: Room = AUTO,
    check: Check = finite,
) -> Tensor:
    """Return the images of latents (B, C, h, w), (B, 3, H, W) float32 in [0, 1]; the rest as in `encode`."""

    def one(latent: Tensor, beat: Callable[[], None]) -> Tensor:
        image = check("decoded image", model.vae, lambda: decode_latent(model, latent, room, beat))
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


def tile_and_overlap(
    tile: str | int, overlap: int, reduction: int = AUTO_REDUCTION
) -> tuple[int | None, int]:
    """Return side and overlap of the UNet's tiles in latent pixels, for a setting; None is the whole picture.

    "auto" is the published tile of 96, or as much of the picture where the VAE's reduction is smaller than
    Stable Diffusion's, and as much of it in the overlap: a UNet that sees less of a picture at once gives its
    tiles tones of their own. reduction: image pixels per latent pixel.
    """
    if tile == "auto":
        finer = max(1, AUTO_REDUCTION // reduction)
        return AUTO_TILE * finer, overlap * finer
    if tile == "off":
        return None, overlap
    if isinstance(tile, int) and not isinstance(tile, bool):
        return tile, overlap
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

"""Restore images: plan once, then prepare, encode, denoise, decode, finish.

Each step computes on the model's device, as many images at once as the plan says, and answers on the device
of what it was given. None records gradients; where memory runs out and nothing smaller is left, each raises
NotEnoughMemoryError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

from ..color import check_method, from_levels, is_grey, match_color, to_levels
from ..device.memory import first_that_fits, memory_in_words, upload
from ..errors import OSEDiffError
from ..inputs import check_alpha, check_detail, check_embeds, check_image, check_prompts
from ..model import OSEDiff
from ..network.vae import run_whole
from ..resize import crop, pad_to_multiple, resize_alpha, resize_bicubic
from ..transparency import color_weight, fill_hidden
from ..vae.exact import decode_in_pieces, encode_in_pieces
from .plan import Plan, VAEPlan, make_plan
from .runtime import Progress, Runtime
from .unet_tiles import predict_in_tiles

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

Held = TypeVar("Held", Tensor, "Image", "np.ndarray[Any, Any]", str, Path)
"""A picture as callers hold it."""
DTYPES_OUT = (torch.float32, torch.uint8)


@torch.no_grad()
@memory_in_words()
def restore(
    model: OSEDiff,
    lq: Held,
    *,
    alpha: Tensor | None = None,
    to: str | Path | None = None,
    scale: float = 4.0,
    middle: tuple[int, int] | None = None,
    prompt: str | Sequence[str] = "",
    color: str = "adain",
    tile: str | int = "auto",
    overlap: int = 32,
    detail: float = 1.0,
    progress: Progress | None = None,
    vae: str | int = "auto",
    spill: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    runtime: Runtime | None = None,
) -> Held:
    """Return the restored images, (B, 3, H', W') float32 in [0, 1] on lq's device, H' = floor(scale H + 0.5).

    What comes as a picture of Pillow's, as an array with channels last, or as a path is given back alike
    (`restore_held`), without `alpha` and `dtype`, which are of tensors; `to`: where a path's result goes.

    lq: (B, 3, H, W), uint8 or float in [0, 1], any size from 1x1; where its channels are equal, those of the
    result are. alpha: (B, 1, H, W), what of it is visible: the rest has no influence, and comes out as
    colours continued from what is (`resize_alpha` makes the alpha of the result). middle: (height, width) of
    the part of the enlarged images that is restored and returned, None for all. prompt: one for all images or
    one for each. color: adain, wavelet or none. tile: "auto" (whole up to 96 x 96 latent pixels, else tiles
    of 96; as much of the picture where the VAE's reduction is below 8), "off", or the side in latent pixels.
    detail: how far the step goes, from 0 to 2; 1 is as trained, less is nearer to the input. progress(done,
    total) is called after every tile of the UNet and every stage of the VAE, and after every piece of one; it
    may raise to cancel.

    vae: "auto" (whole where it fits, else in exact pieces), "whole", or the pieces' side in pixels. spill: a
    folder for what even pieces have to keep. dtype: float32, or uint8 for levels of 255, rounded on the
    model's device. runtime: the surroundings, in place of `progress`. None of these changes a picture by more
    than the last bits of its sums. The same input always gives the same output. Raises OSEDiffError for what
    cannot be restored.
    """
    check_method(color)
    check_detail(detail)
    cut = {"scale": scale, "middle": middle, "tile": tile, "overlap": overlap, "vae": vae, "spill": spill}
    if to is not None and not isinstance(lq, str | Path):
        raise OSEDiffError(
            "`to` is where the result of a path goes; this picture is in memory, as its result is"
        )
    if not isinstance(lq, Tensor):
        from .held import restore_held

        if alpha is not None or dtype != torch.float32:
            raise OSEDiffError("alpha and dtype are of tensors: other pictures bring theirs")
        options = {"prompt": prompt, "color": color, "detail": detail}
        options |= {"progress": progress, "runtime": runtime}
        return cast(Any, restore_held(cast(Any, partial(restore, model)), lq, to, cut | options))
    if alpha is not None:
        check_alpha(alpha, lq)
        lq = fill_hidden(lq, alpha)  # before anybody looks at it
    check_image(lq)
    if dtype not in DTYPES_OUT:
        raise OSEDiffError(f"a restored image is float32 or uint8, got {dtype}: convert it afterwards")
    prompts = check_prompts(prompt, len(lq))
    runtime = runtime or Runtime(progress)
    plan = make_plan(model, *lq.shape[-2:], count=len(lq), runtime=runtime, **cut)
    plan.check()
    runtime.show_plan(plan)
    embeds = encode_prompt(model, prompts, runtime).expand(len(lq), -1, -1)  # (B, L, D)
    runtime.done, runtime.total = 0, plan.steps
    out = torch.empty((len(lq), 3, *plan.size), device=lq.device, dtype=dtype)
    for first in range(0, len(lq), plan.together):
        rows = slice(first, first + plan.together)
        weights = [
            None if alpha is None else color_weight(resize_alpha(alpha[i : i + 1], plan.resized, plan.size))
            for i in range(len(lq))[rows]
        ]
        few = lq[rows], weights, embeds[rows]
        out[rows] = _restore_together(model, *few, plan, color, detail, dtype, runtime)
    return cast(Any, out)


def _restore_together(
    model: OSEDiff,
    lq: Tensor,
    weights: Sequence[Tensor | None],
    embeds: Tensor,
    plan: Plan,
    color: str,
    detail: float,
    dtype: torch.dtype,
    runtime: Runtime,
) -> Tensor:
    """Restore images (n, 3, H, W), and ask in the end, or from step to step, whether all is finite.

    weights: of each (1, 1, *plan.size), how much each pixel counts as a colour; None where all count alike.
    Asking from step to step follows where the answer was no, and is all there is where the pictures do not
    lie on the device.
    """
    late, begun = plan.on_device and runtime.asks_late, runtime.done
    x = prepare(lq, plan, plan.device if plan.on_device else lq.device)  # (n, 3, h, w)
    with runtime.finite_checks(late) as notes:
        z_lq = encode(model, x, plan, runtime)  # (n, C, h / f, w / f)
        z_hq = denoise(model, z_lq, embeds, plan, runtime, detail)
        sr = decode(model, z_hq, plan, runtime)  # (n, 3, h, w)
        done = [
            finish(one, its, plan.size, color, None if weight is None else upload(weight, x.device))
            for one, its, weight in zip(sr.split(1), x.split(1), weights, strict=True)
        ]
        sr = done[0] if len(done) == 1 else torch.cat(done)  # (n, 3, H', W')
    sr = to_levels(sr) if dtype == torch.uint8 else sr
    found = _fetched(sr, torch.stack(notes).all(), lq.device) if late else sr.to(lq.device)
    if found is None:
        runtime.asks_late, runtime.done = False, begun
        return _restore_together(model, lq, weights, embeds, plan, color, detail, dtype, runtime)
    return found


def _fetched(sr: Tensor, good: Tensor, device: torch.device) -> Tensor | None:
    """Return `sr` on another device, or None unless `good`, which travels with it: one wait for both."""
    if sr.device == device:
        return sr if bool(good) else None
    packed = torch.cat([sr.flatten(), good.to(sr.dtype)[None]]).to(device)
    return packed[:-1].view(sr.shape) if bool(packed[-1]) else None


@memory_in_words()
def prepare(lq: Tensor, plan: Plan, device: torch.device | None = None) -> Tensor:
    """Resize and pad: return float images in [0, 1] of the planned size, (B, 3, h, w).

    device: where they are to lie, None for where `lq` is; they travel before they become float.
    """
    resized = resize_bicubic(lq, plan.resized, plan.size)  # (B, 3, H', W')
    x = from_levels(upload(resized, device or lq.device))
    return pad_to_multiple(x, plan.reduction)


@torch.no_grad()
@memory_in_words()
def encode_prompt(model: OSEDiff, prompts: Sequence[str], runtime: Runtime) -> Tensor:
    """Return the embeddings of the prompts, (B, L, D); the model keeps those of the texts that came last.

    Where the model brings the empty prompt's, no text encoder is asked for it, whatever its company.
    """
    texts, known = check_prompts(prompts), model.empty_prompt
    if known is not None and not any(texts):
        return known.repeat(len(texts), 1, 1)

    def compute(missing: Sequence[str]) -> Iterator[Tensor]:
        loaded = runtime.load(model, (model.text_encoder,), 0)
        with loaded as device, torch.inference_mode(False), torch.no_grad():
            for text in missing:
                if not text and known is not None:
                    yield known.to(device)
                    continue
                encode = partial(model.encode_prompt, [text])
                yield runtime.finite("prompt embedding", model.text_encoder, encode)

    return model.embeddings.of(model.text_encoder, texts, compute)


@torch.no_grad()
@memory_in_words()
def encode(model: OSEDiff, x: Tensor, plan: Plan, runtime: Runtime) -> Tensor:
    """Return the latents z_lq, (B, C, h, w), of images x (B, 3, H, W) in [0, 1]."""

    def run(how: VAEPlan, images: Tensor, before: int) -> Tensor:
        x = (images.float() * 2 - 1).to(model.vae.dtype)  # (n, 3, H, W) in [-1, 1]
        on_step = partial(runtime.on_step, before=before * plan.encode_steps, each=len(x))
        if how.piece is None:
            moments = run_whole(model.encoder_layers(), x.to(device), on_step)  # (n, 2 C, h, w)
        else:
            moments = encode_in_pieces(
                model.vae, x, piece=how.piece, keep=how.keep, on_step=on_step, device=device
            )
        return model.scaled(moments)  # (n, C, h, w)

    out, runtime.total = [], max(runtime.total, runtime.done + len(x) * plan.encode_steps)
    with runtime.load(model, model.encoder_part, plan.encode[0].device_bytes) as device:
        attempts = partial(first_that_fits, plan.encode, run)
        for images in x.split(plan.together):
            runtime.expect(len(images) * plan.encode_steps)
            out.append(runtime.finite("encoded latent", model.vae, attempts, images).to(x.device))
    return torch.cat(out)


@torch.no_grad()
@memory_in_words()
def denoise(
    model: OSEDiff, z: Tensor, prompt_embeds: Tensor, plan: Plan, runtime: Runtime, detail: float = 1.0
) -> Tensor:
    """Return the restored latents z_hq of z_lq, (B, C, h, w) float32: the one diffusion step.

    prompt_embeds: (1, L, D) or (B, L, D). detail: z_lq + detail (z_hq - z_lq) is returned; 1, the model as
    trained, is z_hq bit for bit.
    """
    check_detail(detail)
    check_embeds(prompt_embeds, len(z))
    tiles = len(plan.denoise[0].boxes)
    out, runtime.total = [], max(runtime.total, runtime.done + len(z) * tiles)
    with runtime.load(model, (model.unet,), plan.unet_bytes) as device:
        prompt_embeds = prompt_embeds.to(device, model.unet.dtype).expand(len(z), -1, -1)
        blended = partial(predict_in_tiles, model.predict_noise, runtime.on_step)
        attempts = partial(first_that_fits, plan.denoise, blended)
        for few, embeds in zip(z.split(plan.together), prompt_embeds.split(plan.together), strict=True):
            runtime.expect(len(few) * tiles)
            # UNet and closed form must see one rounded latent: the latter amplifies a difference 15 times.
            z_lq = few.to(device, model.unet.dtype)  # (n, C, h, w)
            # Asked once for all tiles: a question to the device waits until it has done what it was given.
            eps = runtime.finite("predicted noise", model.unet, attempts, z_lq, embeds)  # (n, C, h, w)
            z_hq = model.predict_x0(z_lq, eps)  # (n, C, h, w)
            out.append((z_hq if detail == 1 else torch.lerp(z_lq.float(), z_hq, detail)).to(z.device))
    return torch.cat(out)


@torch.no_grad()
@memory_in_words()
def decode(model: OSEDiff, z: Tensor, plan: Plan, runtime: Runtime) -> Tensor:
    """Return the images of latents z (B, C, h, w), (B, 3, H, W) float32 in [0, 1]."""

    def run(how: VAEPlan, latents: Tensor, before: int) -> Tensor:
        unscaled = (latents / model.scaling_factor).to(model.vae.dtype)  # (n, C, h, w)
        on_step = partial(runtime.on_step, before=before * plan.decode_steps, each=len(latents))
        if how.piece is None:
            images = run_whole(model.decoder_layers(), unscaled.to(device), on_step)  # (n, 3, H, W)
        else:
            images = decode_in_pieces(
                model.vae, unscaled, piece=how.piece, keep=how.keep, on_step=on_step, device=device
            )
        return images.float().div_(2).add_(0.5)  # not clamped yet, which would hide an infinity

    out, runtime.total = [], max(runtime.total, runtime.done + len(z) * plan.decode_steps)
    with runtime.load(model, model.decoder_part, plan.decode[0].device_bytes) as device:
        attempts = partial(first_that_fits, plan.decode, run)
        for latents in z.split(plan.together):
            runtime.expect(len(latents) * plan.decode_steps)
            images = runtime.finite("decoded image", model.vae, attempts, latents)
            out.append(images.clamp_(0, 1).to(z.device))
    return out[0] if len(out) == 1 else torch.cat(out)  # a copy of a large picture counts


@torch.no_grad()
@memory_in_words()
def finish(
    sr: Tensor,
    reference: Tensor,
    size: tuple[int, int],
    color: str = "adain",
    weight: Tensor | None = None,
) -> Tensor:
    """Crop both images to `size` and give `sr` the reference's colours, (B, 3, *size) float32 in [0, 1].

    Where the reference's channels are equal, those of the result are. weight: (B, 1, *size), how much each
    pixel counts as a colour.
    """
    sr, reference = crop(sr, size), crop(reference, size).to(sr.device)
    grey = is_grey(reference)  # (B, 1, 1, 1); asks a device nothing
    sr = torch.where(grey, sr.mean(1, keepdim=True), sr)  # the best guess of one value out of three
    sr = match_color(sr, reference, color, weight)
    return torch.where(grey, sr[:, :1], sr)  # sums over channels of one picture may differ in their last bits

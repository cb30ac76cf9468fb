"""The two-stage degradation of Real-ESRGAN, from a clean picture to the LQ that training sees.

hq ─blur─resize─noise─JPEG─▶ ─blur─resize─noise─▶ ┬ resize + low-pass, JPEG ┐ ─▶ lq (1/scale) ─resize─▶ lq
                                                  └ JPEG, resize + low-pass ┘

A share of the pictures can be spared all that and only be shrunk: `DegradationConfig.shrink_only_prob`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from osediff_core.errors import OSEDiffError
from osediff_core.resize import resize_bicubic

from ..randomness.sampling import chance
from .config import DegradationConfig
from .face import degrade_face
from .filters import filter2d, resize_by, resize_to
from .jpeg import jpeg
from .noise import gaussian_noise, poisson_noise
from .recipe import NoiseRecipe, Recipe, StageRecipe, draw_recipe


def degrade(hq: Tensor, config: DegradationConfig, generator: torch.Generator) -> Tensor:
    """Degrade a clean picture (3, H, W) in [0, 1] and enlarge the result to the same size, as in training.

    All randomness comes from `generator` (on the CPU). The result (3, H, W) holds 8-bit levels over 255; the
    LQ before the enlargement is that of `degrade_to_lq_size` for the same generator state, not yet rounded.
    For kind "face" the result is the enlarged LQ as it is, not rounded. `hq` may be on any device; libjpeg
    and the noise's draws work on the CPU. Raises OSEDiffError for a picture of another shape or smaller than
    4 x config.scale on a side.
    """
    if config.kind == "face":
        _check(hq, config.scale)
        return degrade_face(hq, config.face, generator)
    if _is_spared(config, generator):
        return round_to_8bit(resize_bicubic(_shrunk(hq, config.scale)[None], (hq.shape[-2], hq.shape[-1]))[0])
    recipe = draw_recipe(config, generator)
    lq = apply_recipe(hq, recipe, config.scale, generator)
    return round_to_8bit(resize_to(lq, (hq.shape[-2], hq.shape[-1]), recipe.back_mode))


def degrade_to_lq_size(hq: Tensor, config: DegradationConfig, generator: torch.Generator) -> Tensor:
    """Degrade a clean picture (3, H, W) in [0, 1] to the LQ as a file would hold it, before any enlargement.

    The result is (3, H // scale, W // scale) with 8-bit levels over 255. Raises what `degrade` raises, and
    OSEDiffError for kind "face", which has no LQ size.
    """
    if config.kind == "face":
        raise OSEDiffError("the face degradation has no LQ size: its factor is drawn; use kind realesrgan")
    if _is_spared(config, generator):
        return _shrunk(hq, config.scale)
    return round_to_8bit(apply_recipe(hq, draw_recipe(config, generator), config.scale, generator))


def apply_recipe(hq: Tensor, recipe: Recipe, scale: int, generator: torch.Generator) -> Tensor:
    """Apply a drawn recipe to (3, H, W) in [0, 1]; only the noise comes from the generator.

    Returns (3, H // scale, W // scale), neither clamped nor rounded.
    """
    _check(hq, scale)
    size = (hq.shape[-2], hq.shape[-1])
    image = first_stage(hq, recipe.first, generator)
    image = second_stage(image, recipe.second, size, scale, generator)
    return to_lq_size(image, recipe, (size[0] // scale, size[1] // scale))


def first_stage(image: Tensor, stage: StageRecipe, generator: torch.Generator) -> Tensor:
    """Blur, resize by the factor, add noise, compress: (3, H, W) in [0, 1] to another size."""
    image = image if stage.kernel is None else filter2d(image, stage.kernel)
    image = resize_by(image, stage.scale, stage.mode)
    return jpeg(_add_noise(image, stage.noise, generator), stage.quality)


def second_stage(
    image: Tensor, stage: StageRecipe, hq_size: tuple[int, int], scale: int, generator: torch.Generator
) -> Tensor:
    """Blur, resize to the factor times the LQ size, add noise; the compression is part of `to_lq_size`."""
    image = image if stage.kernel is None else filter2d(image, stage.kernel)
    height, width = (max(1, int(side / scale * stage.scale)) for side in hq_size)
    return _add_noise(resize_to(image, (height, width), stage.mode), stage.noise, generator)


def to_lq_size(image: Tensor, recipe: Recipe, size: tuple[int, int]) -> Tensor:
    """Resize to the LQ size with the final low-pass, before or after the second JPEG compression."""
    if not recipe.jpeg_last:
        image = jpeg(image, recipe.second.quality)
    image = resize_to(image, size, recipe.lq_mode)
    if recipe.sinc is not None:
        image = filter2d(image, recipe.sinc)
    return jpeg(image, recipe.second.quality) if recipe.jpeg_last else image


def round_to_8bit(image: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the levels k / 255."""
    return image.mul(255).round_().clamp_(0, 255).div_(255)


def _is_spared(config: DegradationConfig, generator: torch.Generator) -> bool:
    """Decide whether a picture is shrunk and nothing else. Where none is, nothing is drawn either."""
    return config.shrink_only_prob > 0 and chance(generator, config.shrink_only_prob)


def _shrunk(hq: Tensor, scale: int) -> Tensor:
    """Shrink (3, H, W) to (3, H // scale, W // scale) by bicubic with a = -0.5; 8-bit levels over 255."""
    _check(hq, scale)
    return round_to_8bit(resize_bicubic(hq[None], (hq.shape[-2] // scale, hq.shape[-1] // scale))[0])


def _add_noise(image: Tensor, noise: NoiseRecipe, generator: torch.Generator) -> Tensor:
    add = gaussian_noise if noise.gaussian else poisson_noise
    return add(image, noise.strength, noise.grey, generator)


def _check(hq: Tensor, scale: int) -> None:
    if hq.ndim != 3 or hq.shape[0] != 3 or not hq.is_floating_point():
        raise OSEDiffError(
            f"degrade takes a float picture (3, H, W) in [0, 1], got {hq.dtype} {tuple(hq.shape)}."
        )
    if min(hq.shape[-2:]) < 4 * scale:
        raise OSEDiffError(
            f"degrade needs at least {4 * scale} pixels on a side at scale {scale}, "
            f"got {tuple(hq.shape[-2:])}; take a larger crop."
        )

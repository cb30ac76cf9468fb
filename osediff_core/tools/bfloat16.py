"""How near a model in bfloat16 comes to itself in float32: a property of its network, measured once."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..base.precision import convert
from ..device.layout import lay_out
from ..device.memory import NotEnoughMemoryError, free_memory, memory_in_words
from ..model import OSEDiff
from ..pipeline.plan import CPU, SHARE
from ..pipeline.run import restore
from ..pipeline.runtime import Runtime, weight_bytes

SIDE = 64  # pixels of a picture, which is restored to four times as many
LINE, LETTER = 10, 6  # pixels of what looks like text
OCTAVES = 5  # of the clouds
CONTRAST, NOISE = 0.6, 0.15

logger = logging.getLogger(__name__)


class _AsItIs(Runtime):
    """Keeps numbers that are not finite: what is computed once more in float32 tells nothing of bfloat16."""

    def finite(
        self, name: str, module: nn.Module, compute: Callable[..., Tensor], *pictures: Tensor
    ) -> Tensor:
        return compute(*pictures)


@memory_in_words()
def worst_psnr(model: OSEDiff) -> float:
    """Return the least PSNR of `pictures` restored in bfloat16 from them in float32, in dB; 0 if not finite.

    The model is on the processor, and is rounded to bfloat16 in the end. Raises NotEnoughMemoryError, also
    where the weights in float32 would not fit: a system that runs out ends the process, and asks nobody.
    """
    networks = [model.unet, model.vae, model.text_encoder]
    numbers, free = sum(p.numel() for network in networks for p in network.parameters()), free_memory(CPU)
    if free is not None and numbers * torch.float32.itemsize - weight_bytes(networks) > SHARE * free:
        raise NotEnoughMemoryError("the weights in float32 do not fit into the memory that is free")
    logger.info("measuring how near the model in bfloat16 comes to float32")
    exact = _restored(model, torch.float32)  # (N, 3, H, W) in [0, 1]
    errors = (_restored(model, torch.bfloat16) - exact).square().mean((1, 2, 3))  # (N,)
    worst = errors.max().item()
    if not math.isfinite(worst):
        return 0.0
    return math.inf if worst == 0 else -10 * math.log10(worst)


def _restored(model: OSEDiff, dtype: torch.dtype) -> Tensor:
    for network in (model.unet, model.vae, model.text_encoder):
        convert(network, dtype)
    lay_out(model.vae, CPU)
    return restore(model, pictures(), vae="whole", runtime=_AsItIs())  # the same whatever memory is free


def pictures() -> Tensor:
    """Return what is measured on, (5, 3, SIDE, SIDE) in [0, 1]: smooth, edges, text, clouds, noisy clouds.

    Of the contrast that photographs have: of black and white patterns a network may make anything at all,
    and how far two such results are from each other tells nothing of its number format.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> Tensor:
        return torch.rand(size, generator=generator)

    down, across = torch.meshgrid(*[torch.arange(SIDE)] * 2, indexing="ij")  # (SIDE, SIDE) each
    y, x = down / SIDE, across / SIDE
    smooth = torch.stack([x, y, (x + y) / 2])
    edges = torch.stack([((a * x + b * y) % 1 < 0.5).float() for a, b in ((4, 0), (1, 3), (2, -2))])
    line, row, letter, column = down // LINE, down % LINE, across // LETTER, across % LETTER
    upright = (column == 0) & (drawn(SIDE, SIDE)[line, letter] < 0.7)
    level = (column < LETTER - 2) & (row % 3 == 0) & (drawn(SIDE, SIDE)[down // 3, letter] < 0.5)
    text = 1 - ((upright | level) & (row < LINE - 3)).float().expand(3, -1, -1)
    clouds = torch.zeros(3, SIDE, SIDE)
    for octave in range(OCTAVES):
        coarse = drawn(1, 3, 2 << octave, 2 << octave) / 2**octave
        clouds += nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")[0]
    clouds = (clouds - clouds.min()) / (clouds.max() - clouds.min())
    noisy = clouds + torch.randn(clouds.shape, generator=generator) * NOISE
    plain = torch.stack([smooth, edges, text, clouds, noisy])
    return (0.5 + CONTRAST * (plain - 0.5)).clamp(0, 1)

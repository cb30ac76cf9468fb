"""The published blending of tiles, written down from its description: a Gaussian window in place of ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from benchmarks.gaussian import gaussian_window
from osediff_core.pipeline import unet_tiles
from osediff_core.pipeline.unet_tiles import UNetPlan, predict_in_tiles


def blend(
    fn: Callable[[Tensor], Tensor], z: Tensor, tile: int | None, overlap: int, *, symmetric: bool = False
) -> Tensor:
    """Return `fn` of the latent z, (B, C, h, w) float32, by our own tiles, with these weights for ours."""

    def window(height: int, width: int, overlap: int) -> Tensor:
        return gaussian_window(height, width, symmetric=symmetric)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unet_tiles, "blending_window", window)
        plan = UNetPlan(z.shape[-2], z.shape[-1], tile, overlap)
        return predict_in_tiles(fn, lambda done: None, plan, z)

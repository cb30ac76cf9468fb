"""Trade time for memory: keep only the inputs of blocks, and compute their insides again on the way back."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from osediff_core.network.layers import Downsample, ResnetBlock, Upsample
from osediff_core.network.unet import TransformerBlock
from osediff_core.network.vae import SelfAttention

Recompute = Literal["none", "decoder", "all"]

BLOCKS = (ResnetBlock, TransformerBlock, SelfAttention, Upsample, Downsample)
"""Whose insides are forgotten; the outermost counts where one lies in another."""


def recompute_activations(module: nn.Module) -> None:
    """Make every block below `module` recompute, in the numbers that it had: results stay bit for bit.

    Blocks rather than whole levels, of which a decoder's last one alone is most of the memory. The backward
    pass must run with the adapters switched as they were.
    """
    for child in module.children():
        if isinstance(child, BLOCKS):
            _wrap(child)
        else:
            recompute_activations(child)


def _wrap(block: nn.Module) -> None:
    """Replace the forward method on the instance, so that the names of its tensors stay what they are."""
    from torch.utils.checkpoint import checkpoint

    compute = block.forward

    def forward(*args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        if not torch.is_grad_enabled():
            return compute(*args, **kwargs)
        return checkpoint(compute, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)  # pyright: ignore[reportReturnType]

    block.forward = forward

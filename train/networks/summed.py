"""Two sets of adapters on one base as one checkpoint, which loads like any other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from osediff_core.lora import A, B
from osediff_core.weights.checkpoint import Checkpoint

Tensors = Mapping[str, Tensor]


def summed(first: Checkpoint, second: Checkpoint) -> Checkpoint:
    """Return the checkpoint that adds what both add: s1 B1 A1 + s2 B2 A2 = [s1 B1, s2 B2] [A1; A2].

    Its ranks are the sums of theirs, and its scales 1. Layers that one of them leaves alone have zeros in its
    place. Tensors trained in full are the second's, where both have them. The metadata are the second's.
    """
    rank_unet, rank_vae = first.rank_unet + second.rank_unet, first.rank_vae + second.rank_vae
    return Checkpoint(
        unet=_part(first.unet, second.unet, first.scale_unet, second.scale_unet),
        vae=_part(first.vae, second.vae, first.scale_vae, second.scale_vae),
        rank_unet=rank_unet,
        alpha_unet=float(rank_unet),
        rank_vae=rank_vae,
        alpha_vae=float(rank_vae),
        metadata=second.metadata,
    )


def _part(first: Tensors, second: Tensors, first_scale: float, second_scale: float) -> dict[str, Tensor]:
    both = {**first, **second}
    found = {key: tensor for key, tensor in both.items() if not key.endswith((A, B))}
    for layer in [key.removesuffix(A) for key in both if key.endswith(A)]:
        pairs = [
            _pair(layer, *sides) for sides in ((first, second, first_scale), (second, first, second_scale))
        ]
        found[layer + A] = torch.cat([a for a, _ in pairs])  # (r1 + r2, in, ...)
        found[layer + B] = torch.cat([b for _, b in pairs], dim=1)  # (out, r1 + r2, ...)
    return found


def _pair(layer: str, tensors: Tensors, other: Tensors, scale: float) -> tuple[Tensor, Tensor]:
    """Return A and scale B of a layer in float32; zeros, of this set's rank, where it has none."""
    if layer + A in tensors:
        return tensors[layer + A].float(), scale * tensors[layer + B].float()
    rank = next(len(tensor) for key, tensor in tensors.items() if key.endswith(A))
    a, b = other[layer + A], other[layer + B]
    return torch.zeros(rank, *a.shape[1:]), torch.zeros(len(b), rank, *b.shape[2:])

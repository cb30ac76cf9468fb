"""Two sets of adapters on one base as one checkpoint, which loads like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
        unet=_part([(one.unet, one.rank_unet, one.scale_unet) for one in (first, second)]),
        vae=_part([(one.vae, one.rank_vae, one.scale_vae) for one in (first, second)]),
        rank_unet=rank_unet,
        alpha_unet=float(rank_unet),
        rank_vae=rank_vae,
        alpha_vae=float(rank_vae),
        metadata=second.metadata,
    )


def _part(sets: Sequence[tuple[Tensors, int, float]]) -> dict[str, Tensor]:
    """Put sets of one network, each with its rank and scale, side by side."""
    found = {key: tensor for tensors, _, _ in sets for key, tensor in tensors.items()}
    for key, like in list(found.items()):
        if not key.endswith((A, B)):
            continue
        side = 0 if key.endswith(A) else 1  # where the rank is: A (r, in, ...), B (out, r, ...)
        found[key] = torch.cat(
            [
                tensors[key].float() * (scale if side else 1.0)
                if key in tensors
                else _zeros(like, side, rank)
                for tensors, rank, scale in sets
            ],
            dim=side,
        )
    return found


def _zeros(like: Tensor, side: int, rank: int) -> Tensor:
    return torch.zeros(*like.shape[:side], rank, *like.shape[side + 1 :])

"""Attention over a whole image with bounded memory: queries piece by piece, each against all keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ..network.vae import SelfAttention
from .geometry import normalize, spans
from .strips import Activation, Operand, Patch, Sweeper

KEYS_BYTES = 2**28  # keys and values up to this size lie on the device; beyond, they are made again and again
SCORES_BYTES = 2**28  # of the scores at once: kernels that do without them do not take a head of 512
BLOCK = 4096  # queries, and keys, at a time where the keys do not lie on the device


def attention_bytes(values: int, tokens: int, itemsize: int) -> int:
    """Return what attention takes beside its pieces: keys and values, (values,) each, and the scores."""
    return min(2 * values * itemsize, KEYS_BYTES) + min(8 * tokens**2, SCORES_BYTES)


def attend(block: SelfAttention, sweeper: Sweeper, x: Activation, keys_bytes: int = KEYS_BYTES) -> Activation:
    """Return x + attention(norm(x)), normalized and attending over all of `x`, which is dropped.

    keys_bytes: how large keys and values may be
    together to be computed once; larger ones are computed again for every block of queries, in which case
    the softmax is put together from partial ones.
    """
    assert x.moments is not None
    scale, shift = x.moments.affine(block.group_norm)

    def tokens(data: Tensor) -> Tensor:
        return normalize(data, scale, shift).flatten(2).transpose(1, 2)  # (B, n, C)

    values = next(iter(x.strips.values()))
    size = 2 * len(values) * values.shape[1] * x.height * x.width * values.element_size()
    once = size <= keys_bytes
    held = (
        [torch.cat(parts, dim=2) for parts in zip(*_keys(block, sweeper, x, tokens), strict=True)]
        if once
        else []
    )

    def compute(patch: Patch) -> tuple[Tensor, ...]:
        query = _heads(block, block.to_q(tokens(patch.data)))  # (B, heads, n, d)
        if once:
            out = _in_chunks(query, held[0], held[1])
        else:
            parts = [
                _streamed(q, lambda: _keys(block, sweeper, x, tokens)) for q in query.split(BLOCK, dim=2)
            ]
            out = torch.cat(parts, dim=2)
        out = block.to_out[0](out.transpose(1, 2).flatten(2).to(patch.data.dtype))  # (B, n, C)
        return (out.transpose(1, 2).unflatten(2, patch.data.shape[-2:]) + patch.data,)

    result = sweeper.sweep([Operand(x, last=once)], 2 * values.shape[1], compute)[0]
    x.strips.clear()
    return result


def _keys(
    block: SelfAttention, sweeper: Sweeper, x: Activation, tokens: Callable[[Tensor], Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield keys and values of the whole image in blocks of rows, (B, heads, n, d) each."""
    for rows in spans(x.height, max(1, BLOCK // x.width)):
        for columns in spans(x.width, BLOCK):
            data = tokens(x.read(rows, columns, sweeper.device))
            yield _heads(block, block.to_k(data)), _heads(block, block.to_v(data))


def _heads(block: SelfAttention, data: Tensor) -> Tensor:
    """Split the channels of (B, n, heads * d) into (B, heads, n, d)."""
    return data.unflatten(2, (block.heads, -1)).transpose(1, 2)


def _in_chunks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(query key^T / sqrt(d)) value, (B, heads, n, d), some queries at a time."""
    chunk = max(1, SCORES_BYTES // (8 * query.shape[0] * query.shape[1] * key.shape[2]))
    parts = [F.scaled_dot_product_attention(q, key, value) for q in query.split(chunk, dim=2)]
    return torch.cat(parts, dim=2)


def _streamed(query: Tensor, keys: Callable[[], Iterator[tuple[Tensor, Tensor]]]) -> Tensor:
    """Return the same from keys that come in blocks, float32: maximum, sum and result are carried along.

    Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3.
    """
    query = query.float() * query.shape[-1] ** -0.5
    most = query.new_full((*query.shape[:3], 1), -torch.inf)
    total, out = torch.zeros_like(most), torch.zeros_like(query)
    for key, value in keys():
        scores = query @ key.float().transpose(2, 3)  # (B, heads, n, m)
        peak = torch.maximum(most, scores.amax(3, keepdim=True))
        weights = scores.sub_(peak).exp_()
        fade = (most - peak).exp()
        total = total * fade + weights.sum(3, keepdim=True)
        out = out * fade + weights @ value.float()
        most = peak
    return out / total

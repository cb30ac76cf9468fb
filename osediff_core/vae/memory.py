"""How many bytes a half of the VAE takes, whole or in pieces, from the shapes of its layers alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from ..network.layers import Downsample, ResnetBlock, Upsample
from ..network.vae import VAE, Layer, NormConv, SelfAttention, Stage
from .attention import attention_bytes
from .geometry import LEAST_ROWS
from .strips import Store

PIECE = 256  # pixels: the side of the pieces where nothing else is said
CONVOLUTION = 1.3  # what convolutions take beside their tensors, where a layer is not cut
TEMPORARIES = 6  # a piece's input, its normalized and activated copies, its output, and the convolution's own
EXACT_COPIES = 3  # more of a piece, in float32, where the rest is of half precision: norms compute in it
STRIPS = 3  # how far an activation outlives the one that takes its place: the halo's, and the one at work

Shape = tuple[int, int, int]  # channels, height, width


def encode_bytes(
    vae: VAE, height: int, width: int, piece: int | None, keep: Store, device: torch.device | None = None
) -> tuple[int, int]:
    """Return (bytes on the device, bytes kept elsewhere) that encoding one image of that size takes.

    Beside the weights and the image itself; an estimate from above. piece: in pixels, None for the whole at
    once. keep: where activations go, None for the device. device: where it will run, None for where the VAE's
    weights are.
    """
    shape = vae.config.in_channels, height, width
    return _most(vae, vae.encoder_stages(), shape, piece, keep, device)


def decode_bytes(
    vae: VAE, height: int, width: int, piece: int | None, keep: Store, device: torch.device | None = None
) -> tuple[int, int]:
    """Return the same for decoding an image of that size."""
    reduction = 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (vae.config.latent_channels, -(-height // reduction), -(-width // reduction))
    return _most(vae, vae.decoder_stages(), shape, piece, keep, device)


def piece_values(vae: VAE, piece: int) -> int:
    """Return how many numbers a piece has: those of `piece` pixels squared in the widest full-size layer."""
    return piece**2 * 2 * vae.config.block_out_channels[0]


def _most(
    vae: VAE,
    stages: Iterable[Stage],
    shape: Shape,
    piece: int | None,
    keep: Store,
    device: torch.device | None,
) -> tuple[int, int]:
    """Follow the shapes through the stages, and return the most that one of them takes."""
    size, values = vae.dtype.itemsize, piece_values(vae, piece or PIECE)
    elsewhere = keep is not None and keep != (device or vae.encoder.conv_in.weight.device)
    exact = 0 if size >= 4 else 4 * EXACT_COPIES
    whole = working = kept = 0
    for _, layer in stages:
        after, at_once, held = _values(layer, shape)
        result = math.prod(after)
        strips = min(STRIPS * max(values, LEAST_ROWS * result // after[1]), result)
        work = min(values, max(math.prod(shape), result)) * (TEMPORARIES * size + exact)
        if isinstance(layer, SelfAttention):
            work += attention_bytes(math.prod(shape), shape[1] * shape[2], size)
        lying = (held + strips) * size
        whole, kept = max(whole, at_once * size), max(kept, lying)
        working, shape = max(working, work + lying * (not elsewhere)), after
    if piece is None:
        return int(whole * CONVOLUTION), 0
    return working, kept if elsewhere else 0


def _values(layer: Layer, shape: Shape) -> tuple[Shape, int, int]:
    """Return the shape after a layer, the values it has at once when whole, and those kept when in pieces."""
    channels, height, width = shape
    before = channels * height * width
    if isinstance(layer, SelfAttention):
        return shape, 8 * before, 2 * before  # x twice, x normalized, query, key, value, results
    if isinstance(layer, ResnetBlock):
        after = layer.conv2.out_channels * height * width
        whole = before + max(2 * before, 4 * after)  # in its norms, or in its sum
        return (layer.conv2.out_channels, height, width), whole, max(before, 2 * after)
    conv = layer.conv if isinstance(layer, Downsample | Upsample | NormConv) else layer
    if isinstance(layer, Upsample):
        height, width = 2 * height, 2 * width
    enlarged = channels * height * width
    if isinstance(layer, Downsample):
        height, width = height // 2, width // 2
    after = conv.out_channels * height * width
    first = 3 * before if isinstance(layer, NormConv) else before + enlarged
    return (conv.out_channels, height, width), max(first, before + enlarged + after), max(before, after)

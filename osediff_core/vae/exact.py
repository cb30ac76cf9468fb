"""Encode and decode in pieces what does not fit at once, with the result of the whole up to rounding.

The layers are walked through one after the other. Of a layer, activations of the whole image are kept: never
more than two (and a few strips, while one takes the place of another), on the device, in the host's memory or
in files; all else is bounded by the piece. GroupNorm and attention see the whole image, halos are as wide as
the kernels, and no convolution is computed twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..errors import OSEDiffError
from ..network.vae import VAE, Stage
from ..whole_files import name_beside, sweep, writing
from .layers import run_in_pieces
from .memory import PIECE, piece_values
from .strips import Activation, Allocate, Store, Sweeper, in_files, on_host

LEAST_PIECE = 32  # pixels: below, the halo of a piece is as large as the piece

OnStep = Callable[[int], object]


def encode_in_pieces(
    vae: VAE,
    x: Tensor,
    *,
    piece: int = PIECE,
    keep: Store = None,
    on_step: OnStep | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Return the moments of the posterior of images (B, 3, H, W) in [-1, 1], (B, 2 C, h, w), on x's device.

    Equal to the whole `vae.encode` but for the order of sums. piece: the side in image pixels of what is
    computed at a time; its area counts, layers with more channels have smaller pieces. keep: where the
    activations of the whole image go: None to stay on the VAE's device, the CPU, or a folder for files that
    are mapped into memory. on_step(done) is called after every piece with the number of stages that are
    done, and may raise to stop. device: where it computes, None for where the VAE's weights are. Raises
    OSEDiffError for a piece below LEAST_PIECE.
    """
    return _walk(vae, vae.encoder_stages(), x, piece, keep, on_step, device)


def decode_in_pieces(
    vae: VAE,
    z: Tensor,
    *,
    piece: int = PIECE,
    keep: Store = None,
    on_step: OnStep | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Return the images (B, 3, H, W) in about [-1, 1] of unscaled latents (B, C, h, w), on z's device.

    The arguments are those of `encode_in_pieces`, the piece in image pixels too.
    """
    return _walk(vae, vae.decoder_stages(), z, piece, keep, on_step, device)


@torch.no_grad()
def _walk(
    vae: VAE,
    stages: Sequence[Stage],
    x: Tensor,
    piece: int,
    keep: Store,
    on_step: OnStep | None,
    device: torch.device | None,
) -> Tensor:
    """Run the stages one after the other and return the last one's result on x's device."""
    values, device = _values(vae, piece), device or vae.encoder.conv_in.weight.device
    with _strips(keep, device) as allocate:
        activation = Activation(x.shape[-2], x.shape[-1], {0: x.to(vae.dtype)})
        for done, stage in enumerate(stages):
            report = None if on_step is None else partial(on_step, done)
            activation = run_in_pieces(stage.layer, Sweeper(device, values, allocate, report), activation)
        if on_step is not None:
            on_step(len(stages))
        return activation.whole().to(x.device)


@contextmanager
def _strips(keep: Store, device: torch.device) -> Iterator[Allocate | None]:
    """Yield what makes the strips that are kept, None for what stays on the device."""
    if isinstance(keep, Path):
        sweep(keep)
        folder = name_beside(keep / "strips")
        with writing(folder):
            folder.mkdir()
        try:
            yield in_files(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    else:
        yield None if keep is None or keep == device else on_host


def _values(vae: VAE, piece: int) -> int:
    """Return how many numbers a piece has."""
    if piece < LEAST_PIECE:
        raise OSEDiffError(
            f"a piece of the VAE is at least {LEAST_PIECE} pixels wide, got {piece}: {PIECE} is the usual one"
        )
    return piece_values(vae, piece)

"""Encode and decode in pieces what does not fit at once, with the result of the whole up to rounding.

The layers are walked through one after the other. Of a layer, activations of the whole image are kept: never
more than two (and a few strips, while one takes the place of another), on the device, in the host's memory or
in files; all else is bounded by the piece. GroupNorm and attention see the whole image, halos are as wide as
the kernels, and no convolution is computed twice.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import OSEDiffError
from .attention import attention_bytes
from .geometry import LEAST_ROWS
from .layers import Attention, Shape, Stage, decoder_stages, encoder_stages
from .strips import Allocate, Kept, Sweeper, in_files, on_host

PIECE = 256  # pixels: the side of the pieces where nothing else is said
LEAST_PIECE = 32  # pixels: below, the halo of a piece is as large as the piece
TEMPORARIES = 6  # a piece's input, its normalized and activated copies, its output, and the convolution's own
EXACT_COPIES = 3  # more of a piece, in float32, where the rest is of half precision: norms compute in it
UNKNOWN = 6  # values at once, of a pixel and channel of the first level, as in Stable Diffusion's decoder
STRIPS = 3  # how far an activation outlives the one that takes its place: the halo's, and the one at work

Place = torch.device | Path | None


def encode_in_pieces(
    vae: nn.Module,
    x: Tensor,
    *,
    piece: int = PIECE,
    keep: Place = None,
    beat: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return the moments of the posterior of images (B, 3, H, W) in [-1, 1], (B, 2 C, h, w), on x's device.

    Equal to the whole `vae.encode` but for the order of sums. piece: the side in image pixels of what is
    computed at a time; its area counts, layers with more channels have smaller pieces. keep: where the
    activations of the whole image go: None to stay on the VAE's device, the CPU, or a folder for files that
    are mapped into memory. beat() is called after every piece and may raise to stop. Raises OSEDiffError for
    a VAE that is not of Stable Diffusion's kind, or a piece below LEAST_PIECE.
    """
    with torch.no_grad():
        return _walk(encoder_stages(vae), vae.encoder.conv_in, x, _values(vae, piece), keep, beat)


def decode_in_pieces(
    vae: nn.Module,
    z: Tensor,
    *,
    piece: int = PIECE,
    keep: Place = None,
    beat: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return the images (B, 3, H, W) in about [-1, 1] of unscaled latents (B, C, h, w), on z's device.

    The arguments are those of `encode_in_pieces`, the piece in image pixels too.
    """
    with torch.no_grad():
        return _walk(decoder_stages(vae), vae.decoder.conv_in, z, _values(vae, piece), keep, beat)


def encode_memory(
    vae: nn.Module, height: int, width: int, piece: int | None = None, keep: Place = None
) -> tuple[int, int]:
    """Return (bytes on the device, bytes kept elsewhere) that encoding one image of that size takes.

    Beside the weights and the image itself; an estimate from above. piece: None for the whole at once, which
    is a guess for a VAE of unknown build. Raises OSEDiffError for pieces of such a one.
    """
    if piece is None and not divisible(vae):
        return _guessed(vae, height, width), 0
    return _memory(vae, encoder_stages(vae), (vae.config.in_channels, height, width), piece, keep)


def decode_memory(
    vae: nn.Module, height: int, width: int, piece: int | None = None, keep: Place = None
) -> tuple[int, int]:
    """Return the same for decoding an image of that size."""
    if piece is None and not divisible(vae):
        return _guessed(vae, height, width), 0
    reduction = 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (vae.config.latent_channels, -(-height // reduction), -(-width // reduction))
    return _memory(vae, decoder_stages(vae), shape, piece, keep)


def divisible(vae: nn.Module) -> bool:
    """Whether a VAE is of the kind that is known here, and can be cut into pieces."""
    try:
        encoder_stages(vae)
        decoder_stages(vae)
    except OSEDiffError:
        return False
    return True


def _guessed(vae: nn.Module, height: int, width: int) -> int:
    """Return how many bytes the whole may take for a VAE whose build is unknown."""
    size = vae.encoder.conv_in.weight.element_size()
    return UNKNOWN * vae.config.block_out_channels[0] * height * width * size


def _walk(
    stages: Sequence[Stage],
    first: nn.Conv2d,
    x: Tensor,
    values: int,
    keep: Place,
    beat: Callable[[], None],
) -> Tensor:
    """Run the stages one after the other and return the last one's result on x's device."""
    device = first.weight.device
    with _strips(keep, device) as allocate:
        sweeper = Sweeper(device, values, allocate, beat)
        kept = Kept(x.shape[-2], x.shape[-1], {0: x.to(first.weight.dtype)})
        for stage in stages:
            kept = stage.run(sweeper, kept)
        return kept.whole().to(x.device)


@contextmanager
def _strips(keep: Place, device: torch.device) -> Iterator[Allocate | None]:
    """Yield what makes the strips that are kept, None for what stays on the device."""
    if isinstance(keep, Path):
        with tempfile.TemporaryDirectory(dir=keep, prefix="osediff-", ignore_cleanup_errors=True) as folder:
            yield in_files(Path(folder))
    else:
        yield None if keep is None or keep == device else on_host


def _values(vae: nn.Module, piece: int) -> int:
    """Return how many numbers a piece has: those of `piece` pixels squared in the widest full-size layer."""
    if piece < LEAST_PIECE:
        raise OSEDiffError(
            f"a piece of the VAE is at least {LEAST_PIECE} pixels wide, got {piece}: {PIECE} is the usual one"
        )
    return piece**2 * 2 * int(vae.config.block_out_channels[0])


def _memory(
    vae: nn.Module, stages: Sequence[Stage], shape: Shape, piece: int | None, keep: Place
) -> tuple[int, int]:
    """Follow the shapes through the stages, and return the most that one of them takes."""
    weight = vae.encoder.conv_in.weight
    size = weight.element_size()
    values = _values(vae, PIECE if piece is None else piece)
    at_once, kept, attention = 0, 0, 0
    for stage in stages:
        after = math.prod(stage.after(shape))
        strip = max(values, LEAST_ROWS * after // stage.after(shape)[1])
        at_once = max(at_once, stage.whole(shape))
        kept = max(kept, stage.kept(shape) + min(STRIPS * strip, after))
        if isinstance(stage, Attention):
            attention = attention_bytes(math.prod(shape), shape[1] * shape[2], size)
        shape = stage.after(shape)
    if piece is None:
        return at_once * size, 0
    exact = 0 if size >= 4 else 4 * EXACT_COPIES
    working, kept_bytes = values * (TEMPORARIES * size + exact) + attention, kept * size
    elsewhere = keep is not None and keep != weight.device
    return (working, kept_bytes) if elsewhere else (working + kept_bytes, 0)

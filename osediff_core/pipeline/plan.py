"""How the work is cut to the memory there is: how the VAE runs, how many tiles the UNet takes at once.

Nothing here changes a picture by more than the last bits of sums. The UNet's tiles are not chosen here: they
would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..device.memory import Free, first_that_fits, free_memory, gigabytes
from ..errors import OSEDiffError
from ..model import OSEDiff
from ..vae.exact import (
    LEAST_PIECE,
    PIECE,
    Place,
    decode_in_pieces,
    decode_memory,
    divisible,
    encode_in_pieces,
    encode_memory,
)

CPU = torch.device("cpu")
SHARE = 0.9  # of the free memory that is planned with
CONVOLUTION = 1.5  # what convolutions take beside their tensors, where a layer is not cut
UNET_VALUES = 32  # alive at once in a UNet, per latent pixel and channel of its first level: 25 are counted
MOST_TILES = 16  # at once: more gain no speed
HOST_COPIES = 8  # of the result, as float32: the result, the input beside it, and colour matching


@dataclass(frozen=True)
class Room:
    """How memory is used.

    vae: "auto" (whole where it fits, else in pieces), "whole", or the side of the pieces in image pixels.
    spill: a folder for what does not fit into memory, None for no files. free(device) says how many bytes
    there are; None, or an answer of None, where that is unknown.
    """

    vae: str | int = "auto"
    spill: Path | None = None
    free: Free = free_memory

    def __post_init__(self) -> None:
        """Raise OSEDiffError for a choice that is none."""
        piece = isinstance(self.vae, int) and not isinstance(self.vae, bool)
        if self.vae not in ("auto", "whole") and not piece:
            raise OSEDiffError(f"the VAE runs auto, whole, or in pieces of so many pixels, got {self.vae!r}")
        if piece and int(self.vae) < LEAST_PIECE:
            raise OSEDiffError(f"pieces of the VAE are at least {LEAST_PIECE} pixels wide, got {self.vae}")
        if self.spill is not None and not self.spill.is_dir():
            raise OSEDiffError(f"there is no folder {self.spill} to spill to: make it, or name another one")


AUTO = Room()


@dataclass(frozen=True)
class Cut:
    """How a VAE runs: whole (None) or in pieces of so many pixels, keeping activations at a place."""

    piece: int | None
    keep: Place = None

    def __str__(self) -> str:
        """Say it for the log."""
        if self.piece is None:
            return "the VAE whole"
        where = {Path: " and files", torch.device: " and host memory"}
        place = next((words for kind, words in where.items() if isinstance(self.keep, kind)), "")
        return f"the VAE in pieces of {self.piece} pixels{place}"


def encode_image(model: OSEDiff, image: Tensor, room: Room, beat: Callable[[], None]) -> Tensor:
    """Return the latent of an image (1, 3, H, W) in [0, 1], (1, C, h, w), cut to the room there is."""
    height, width = image.shape[-2:]
    device = next(model.vae.encoder.parameters()).device

    def run(cut: Cut) -> Tensor:
        if cut.piece is None:
            return model.encode(image.to(device))
        x = image.float() * 2 - 1  # (1, 3, H, W) in [-1, 1]
        moments = encode_in_pieces(model.vae, x, piece=cut.piece, keep=cut.keep, beat=beat)
        return moments.chunk(2, dim=1)[0] * model.scaling_factor  # the posterior's mean

    def memory(cut: Cut) -> tuple[int, int]:
        return encode_memory(model.vae, height, width, cut.piece, cut.keep)

    return first_that_fits(cuts(room, device, memory), run, str)


def decode_latent(model: OSEDiff, z: Tensor, room: Room, beat: Callable[[], None]) -> Tensor:
    """Return the image of a latent (1, C, h, w), (1, 3, H, W) about [0, 1], cut to the room there is."""
    height, width = (side * model.reduction for side in z.shape[-2:])
    device = next(model.vae.decoder.parameters()).device

    def run(cut: Cut) -> Tensor:
        if cut.piece is None:
            return model.decode_unclamped(z.to(device))
        unscaled = z / model.scaling_factor
        image = decode_in_pieces(model.vae, unscaled, piece=cut.piece, keep=cut.keep, beat=beat)
        return image.float().div_(2).add_(0.5)  # (1, 3, H, W)

    def memory(cut: Cut) -> tuple[int, int]:
        return decode_memory(model.vae, height, width, cut.piece, cut.keep)

    return first_that_fits(cuts(room, device, memory), run, str)


def cuts(room: Room, device: torch.device, memory: Callable[[Cut], tuple[int, int]]) -> list[Cut]:
    """Return how to run the VAE, and how to go on, again and again, if memory runs out all the same.

    memory(cut) gives the bytes on the device and elsewhere. Raises OSEDiffError where even pieces need more
    of the host's memory than there is.
    """
    if room.vae == "whole":
        return [Cut(None)]
    elsewhere: Place = room.spill or CPU
    piece = PIECE if room.vae == "auto" else int(room.vae)
    ways = [Cut(piece), Cut(piece, elsewhere)] if device != CPU or room.spill else [Cut(piece)]
    if room.vae == "auto":
        ways.insert(0, Cut(None))
    while piece > LEAST_PIECE:
        piece = max(piece // 2, LEAST_PIECE)
        ways.append(replace(ways[-1], piece=piece))
    fitting = next((i for i, cut in enumerate(ways) if _fits(cut, room, device, memory)), len(ways))
    if fitting == len(ways):
        _refuse(ways[-1], room, device, memory)
    return ways[fitting:]


def _fits(cut: Cut, room: Room, device: torch.device, memory: Callable[[Cut], tuple[int, int]]) -> bool:
    """Whether what a cut takes is free; what is unknown is assumed to suffice."""
    there, elsewhere = memory(cut)
    there = int(there * CONVOLUTION) if cut.piece is None else there
    elsewhere = 0 if isinstance(cut.keep, Path) else elsewhere
    return _enough(there, device, room) and _enough(elsewhere, CPU, room)


def _enough(size: int, device: torch.device, room: Room) -> bool:
    free = room.free(device) if size else None
    return free is None or size <= SHARE * free


def _refuse(cut: Cut, room: Room, device: torch.device, memory: Callable[[Cut], tuple[int, int]]) -> None:
    there, elsewhere = memory(cut)
    free, free_host = room.free(device) or 0, room.free(CPU) or 0
    beside = f", and {gigabytes(elsewhere)} of the host's memory, of which {gigabytes(free_host)} are free"
    raise OSEDiffError(
        f"this picture takes {gigabytes(there)} on {device} even in the smallest pieces, of which "
        f"{gigabytes(free)} are free{beside if elsewhere else ''}: take a smaller scale, cut the picture "
        "into parts, or spill to files"
    )


def fits_on_device(model: OSEDiff, height: int, width: int, count: int, room: Room) -> bool:
    """Whether images of that size may lie on the model's device from the beginning to the end.

    They may where it has room for the decoder's activations beside them: not where those are kept elsewhere,
    nor on a processor, where it would change nothing.
    """
    device, copies = model.device, _copies(height, width, count)

    def memory(cut: Cut) -> tuple[int, int]:
        there, elsewhere = decode_memory(model.vae, height, width, cut.piece, cut.keep)
        return there + copies, elsewhere

    ways = [Cut(None)] if isinstance(room.vae, str) else []
    if room.vae != "whole" and divisible(model.vae):
        ways.append(Cut(PIECE if room.vae == "auto" else int(room.vae)))
    return device != CPU and any(_fits(cut, room, device, memory) for cut in ways)


def _copies(height: int, width: int, count: int) -> int:
    """Return what the results take that are there together, in bytes."""
    return 3 * height * width * 4 * (HOST_COPIES + count - 1)


def check_host(height: int, width: int, count: int, room: Room) -> None:
    """Raise OSEDiffError, with the memory it would take, for results that the host's memory cannot hold."""
    size = _copies(height, width, count)
    if not _enough(size, CPU, room):
        raise OSEDiffError(
            f"a result of {width} x {height} pixels takes about {gigabytes(size)} of memory to make, and "
            f"{gigabytes(room.free(CPU) or 0)} are free: take a smaller scale, or cut the picture into parts"
        )


def unet_memory(unet: nn.Module, height: int, width: int) -> int:
    """Return how many bytes the UNet takes beside its weights for one latent tile of that size."""
    first = unet.conv_in
    return UNET_VALUES * first.out_channels * height * width * first.weight.element_size()


def tiles_at_once(unet: nn.Module, height: int, width: int, room: Room) -> int:
    """Return how many tiles of that size the UNet takes at once: on a processor one, more are no faster."""
    device = next(unet.parameters()).device
    free = None if device == CPU else room.free(device)
    if free is None:
        return 1
    return min(MOST_TILES, max(1, int(SHARE * free) // unet_memory(unet, height, width)))

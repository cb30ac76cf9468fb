"""What a restoration will do, decided before anything heavy: sizes, tiles, how the VAE runs, bytes.

How the work is cut to the memory changes a picture by no more than the last bits of sums. The UNet's tiles
would change it: they depend on the picture's size alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from ..device.memory import gigabytes
from ..errors import OSEDiffError
from ..model import OSEDiff
from ..resize import target_size
from ..vae.exact import LEAST_PIECE
from ..vae.memory import PIECE, decode_bytes, encode_bytes
from ..vae.strips import Store
from .runtime import Runtime
from .unet_tiles import UNetPlan

CPU = torch.device("cpu")
SHARE = 0.9  # of the free memory that is planned with
OVERHEAD = 32 * 2**20  # bytes that allocators and libraries take beside everything
# Alive at once in a UNet, per latent pixel and channel of its first level: 26.5 are measured where that level
# attends, 14.0 where it does not.
ATTENDING_VALUES, PLAIN_VALUES = 27, 14.5
MOST_TILES = 16  # at once: more gain no speed
MOST_PICTURES = 8  # at once: each takes an eighth of what a call costs beside its arithmetic, and more memory
LEAST_TILE = 32  # latent pixels: below, the UNet's deepest level has fewer than 4 x 4 pixels
AUTO_TILE = 96  # latent pixels: the published tile, which never depends on free memory
AUTO_REDUCTION = 8  # Stable Diffusion's, for which the published tile was chosen: 768 pixels of the picture
# Beside a part's work there are, in float32, pictures of the result's size, and latents:
KEPT_COPIES = 2  # the resized input and the result; on a processor of a batch every result
VAE_COPIES = 3  # more while a half of the VAE runs: what goes in or comes out, in [0, 1] and in [-1, 1]
COLOR_COPIES = 6  # more while colours are matched
LATENT_COPIES = 6  # while the UNet runs: z_lq, the noise that is summed up and a tile's, their quotient, z_hq

Measure = Callable[["int | None", Store], tuple[int, int]]


@dataclass(frozen=True)
class VAEPlan:
    """How one half of the VAE runs: whole (piece None), or in exact pieces of so many pixels a side.

    keep: where pieces leave the activations of the whole image. Bytes are those of its work and of the
    pictures beside it, without weights.
    """

    piece: int | None
    keep: Store = None
    device_bytes: int = 0
    host_bytes: int = 0

    def __str__(self) -> str:
        """Say it for the log."""
        if self.piece is None:
            return "the VAE whole"
        where = {Path: " and files", torch.device: " and host memory"}
        place = next((words for kind, words in where.items() if isinstance(self.keep, kind)), "")
        return f"the VAE in pieces of {self.piece} pixels{place}"


@dataclass(frozen=True)
class Plan:
    """All of a restoration. Sizes are (height, width) in pixels; bytes are the most there are at any time.

    count, together: of images, and how many of them go through the parts at once: several only where each is
    one tile and the VAE runs whole. resized, size: of the enlarged picture, and of the result, which is all
    of it or its middle. encode, denoise, decode: how each part runs, and how it goes on, again and again,
    where memory runs out all the same, with fewer images first. steps: what progress counts, of one image by
    part and of all. on_device: whether pictures lie on the model's device from beginning to end. forced:
    whether the user wants the VAE whole, whatever memory there is. unet_bytes: of the UNet's work and what
    lies beside it. On a processor, device and host are one memory, and the device's figures are for it. fits:
    whether there is memory for it; what is unknown counts as enough.
    """

    count: int
    together: int
    resized: tuple[int, int]
    size: tuple[int, int]
    reduction: int
    encode: Sequence[VAEPlan]
    denoise: Sequence[UNetPlan]
    decode: Sequence[VAEPlan]
    encode_steps: int
    decode_steps: int
    steps: int
    device: torch.device
    on_device: bool
    forced: bool
    unet_bytes: int
    device_bytes: int
    host_bytes: int
    device_free: int | None
    host_free: int | None
    fits: bool

    @property
    def padded(self) -> tuple[int, int]:
        """The size that is encoded and decoded: `size` with sides that the VAE's reduction divides."""
        height, width = (-(-side // self.reduction) * self.reduction for side in self.size)
        return height, width

    def check(self) -> None:
        """Raise OSEDiffError, with the memory it would take, unless it fits."""
        if not self.fits and not self.forced:
            raise OSEDiffError(f"{self}; take a smaller scale, cut the picture into parts, or spill to files")

    def __str__(self) -> str:
        """Say it in one sentence."""
        height, width = self.size
        tiles = len(self.denoise[0].boxes)
        several = f"{self.count} pictures of " if self.count > 1 else ""
        cut = f"{tiles} tiles" if tiles > 1 else "one tile"
        cut += f", {self.together} pictures at once" if self.together > 1 else ""
        halves = f"{_words('encoded', self.encode[0])}, {_words('decoded', self.decode[0])}"
        memory = [_need(self.device_bytes, self.device_free, self.device)]
        if self.host_bytes:
            memory.append(_need(self.host_bytes, self.host_free, CPU))
        fits = "fits" if self.fits else "does not fit"
        return f"{several}{width} x {height} in {cut}, {halves}, takes {' and '.join(memory)}: {fits}"


def make_plan(
    model: OSEDiff,
    height: int,
    width: int,
    *,
    runtime: Runtime,
    count: int = 1,
    scale: float = 1.0,
    middle: tuple[int, int] | None = None,
    tile: str | int = "auto",
    overlap: int = 32,
    vae: str | int = "auto",
    spill: str | Path | None = None,
) -> Plan:
    """Return how images of (height, width) pixels are restored at `scale`, with the memory there is now.

    count: of images, several at once on a device that has the memory for it. middle, tile, overlap, vae,
    spill: as for `restore`. Raises OSEDiffError for choices that are none; where memory does not suffice,
    `Plan.check` does.
    """
    device, f = runtime.device(model), model.reduction
    resized = target_size(height, width, scale)
    size = middle or resized
    if not (0 < size[0] <= resized[0] and 0 < size[1] <= resized[1]):
        raise OSEDiffError(f"{size[1]} x {size[0]} cannot be the middle of {resized[1]} x {resized[0]}")
    down, across = (-(-side // f) for side in size)
    parts = model.encoder_part, (model.unet,), model.decoder_part
    known = [free for part in parts if (free := runtime.free_beside(model, part)) is not None]
    device_free = min(known, default=None)
    host_free = None if device == CPU else runtime.free_memory(CPU)
    ways = _ways(vae, device, spill)
    one, z = 3 * size[0] * size[1] * 4, model.latent_channels * down * across * 4  # bytes of a picture
    room = None  # for tiles of the UNet beside its pictures and latents; on a processor more are no faster
    if device != CPU and device_free is not None:
        room = int(SHARE * device_free) - OVERHEAD - KEPT_COPIES * one - LATENT_COPIES * z
    tiles = _tiles(model, down, across, *tile_and_overlap(tile, overlap, f), room)
    encoding, decoding = (
        partial(by, model.vae, down * f, across * f, device=device) for by in (encode_bytes, decode_bytes)
    )
    together = 1
    if count > 1 and device != CPU and device_free is not None and ways[0][0] is None:
        together = min(count, _together(tiles[0], z, one, (encoding, decoding), device_free))

    copy, results = one * together, one * (count + together - 2)  # results: beside the images at work
    kept = copy * KEPT_COPIES + results * (device == CPU)
    beside = OVERHEAD + kept + VAE_COPIES * copy
    # Beside a half of the VAE lie pictures, on the device or on the host; and what is free on either.
    there_or_not = {True: (beside, 0), False: (OVERHEAD, beside + results)}
    free = device_free, host_free

    decode = _vae_plans(decoding, ways, there_or_not[True], free, together)
    there = decode[0].keep is None and _enough(decode[0].device_bytes, device_free)
    if device != CPU and not there:
        decode = _vae_plans(decoding, ways, there_or_not[False], free, together)
    there = there or device == CPU
    encode = _vae_plans(encoding, ways, there_or_not[there], free, together)
    latents, colors = OVERHEAD + LATENT_COPIES * z * together, OVERHEAD + kept + COLOR_COPIES * copy
    unet_bytes = tiles[0].device_bytes * together + latents + kept * there
    device_bytes = max(encode[0].device_bytes, unet_bytes, decode[0].device_bytes, colors * there)
    host_bytes = max(encode[0].host_bytes, decode[0].host_bytes, colors * (not there))
    host_bytes = max(host_bytes, results * (device != CPU))
    encode_steps, decode_steps = len(model.encoder_layers()), len(model.decoder_layers())
    return Plan(
        count=count,
        together=together,
        resized=resized,
        size=size,
        reduction=f,
        encode=encode,
        denoise=tiles,
        decode=decode,
        encode_steps=encode_steps,
        decode_steps=decode_steps,
        steps=count * (encode_steps + len(tiles[0].boxes) + decode_steps),
        device=device,
        on_device=there and device != CPU,
        forced=vae == "whole",
        unet_bytes=unet_bytes,
        device_bytes=device_bytes,
        host_bytes=host_bytes,
        device_free=device_free,
        host_free=host_free,
        fits=_enough(device_bytes, device_free) and _enough(host_bytes, host_free),
    )


def _together(tiles: UNetPlan, z: int, picture: int, halves: Sequence[Measure], free: int) -> int:
    """Return how many pictures may go through all parts at once, with the VAE whole; at least 1.

    z, picture: bytes of a latent and of a picture. halves: tell the bytes of the work of the VAE's halves.
    Pictures of several tiles are so large that there is nothing to gain.
    """
    if len(tiles.boxes) > 1:
        return 1
    vae = VAE_COPIES * picture + max(measure(None, None)[0] for measure in halves)
    work = max(vae, tiles.device_bytes + LATENT_COPIES * z, COLOR_COPIES * picture)
    return max(1, min(MOST_PICTURES, int(SHARE * free - OVERHEAD) // (KEPT_COPIES * picture + work)))


def tile_and_overlap(
    tile: str | int, overlap: int, reduction: int = AUTO_REDUCTION
) -> tuple[int | None, int]:
    """Return side and overlap of the UNet's tiles in latent pixels, for a setting; None is the whole picture.

    "auto" is the published tile of 96, or as much of the picture where the VAE's reduction is smaller than
    Stable Diffusion's, and as much of it in the overlap: a UNet that sees less of a picture at once gives its
    tiles tones of their own. reduction: image pixels per latent pixel.
    """
    if tile == "auto":
        finer = max(1, AUTO_REDUCTION // reduction)
        return AUTO_TILE * finer, overlap * finer
    if tile == "off":
        return None, overlap
    if isinstance(tile, int) and not isinstance(tile, bool):
        return tile, overlap
    raise OSEDiffError(f"the tile is auto, off, or a number of latent pixels, got {tile!r}")


def _tiles(
    model: OSEDiff,
    height: int,
    width: int,
    side: int | None,
    overlap: int,
    room: int | None,
) -> list[UNetPlan]:
    """Return how the UNet runs, and how it goes on: fewer tiles at once, then smaller ones, down to a floor.

    On a processor one tile at once: more are no faster.
    """
    plan, first = UNetPlan(height, width, side, overlap), model.unet.conv_in
    attends = model.unet.config.down_block_types[0] == "CrossAttnDownBlock2D"
    values = (ATTENDING_VALUES if attends else PLAIN_VALUES) * first.out_channels  # of a latent pixel
    each = int(values * plan.boxes[0].height * plan.boxes[0].width * model.unet.dtype.itemsize)
    most = 1
    if room is not None:
        most = max(1, min(MOST_TILES, len(plan.boxes), room // each))
    counts = [most // 2**n for n in range(most.bit_length())]
    plans = [replace(plan, at_once=count, device_bytes=count * each) for count in counts]
    smaller = math.isqrt(height * width) if side is None or len(plan.boxes) == 1 else side
    while smaller // 2 >= LEAST_TILE:
        smaller //= 2
        plans.append(UNetPlan(height, width, smaller, min(overlap, smaller // 3)))
    return plans


def _ways(vae: str | int, device: torch.device, spill: str | Path | None) -> list[tuple[int | None, Store]]:
    """Return how a half of the VAE may run: piece and keep of a `VAEPlan`, each with less memory."""
    number = isinstance(vae, int) and not isinstance(vae, bool)
    if vae not in ("auto", "whole") and not number:
        raise OSEDiffError(f"the VAE runs auto, whole, or in pieces of so many pixels, got {vae!r}")
    if number and int(vae) < LEAST_PIECE:
        raise OSEDiffError(f"pieces of the VAE are at least {LEAST_PIECE} pixels wide, got {vae}")
    if spill is not None and not Path(spill).is_dir():
        raise OSEDiffError(f"there is no folder {spill} to spill to: make it, or name another one")
    if vae == "whole":
        return [(None, None)]
    piece = PIECE if vae == "auto" else int(vae)
    keep = CPU if spill is None else Path(spill)
    ways: list[tuple[int | None, Store]] = [(None, None)] if vae == "auto" else []
    ways += [(piece, None), (piece, keep)] if device != CPU or spill is not None else [(piece, None)]
    while piece > LEAST_PIECE:
        piece = max(piece // 2, LEAST_PIECE)
        ways.append((piece, ways[-1][1]))
    return ways


def plan_half(
    measure: Measure, vae: str | int, device: torch.device, free: tuple[int | None, int | None]
) -> list[VAEPlan]:
    """Return how a half of a VAE may run by itself, from the first way that fits on.

    measure: tells the bytes of its work. vae: as for `restore`. free: bytes there are on the device, and on
    the host.
    """
    return _vae_plans(measure, _ways(vae, device, None), (OVERHEAD, OVERHEAD), free, 1)


def _vae_plans(
    measure: Measure,
    ways: Sequence[tuple[int | None, Store]],
    beside: tuple[int, int],
    free: tuple[int | None, int | None],
    together: int,
) -> list[VAEPlan]:
    """Return the ways to run a half of the VAE from the first that fits on, or else the last one.

    measure: tells the bytes of its work. beside: bytes that lie beside it; free: bytes there are. Both on the
    device, and on the host. together: how many pictures go through it at once where it is whole.
    """
    plans: list[VAEPlan] = []
    found = False
    for piece, keep in ways:
        on_device, elsewhere = measure(piece, keep)
        on_device *= together if piece is None else 1
        on_host = 0 if isinstance(keep, Path) else elsewhere
        plan = VAEPlan(piece, keep, on_device + beside[0], on_host + beside[1])
        fits = _enough(plan.device_bytes, free[0]) and _enough(plan.host_bytes, free[1])
        found, plans = found or fits, [*plans, plan] if found else [plan]
    return plans


def _enough(size: int, free: int | None) -> bool:
    return free is None or size <= SHARE * free


def _words(done: str, plan: VAEPlan) -> str:
    return f"{done} whole" if plan.piece is None else f"{done} in pieces of {plan.piece}"


def _need(size: int, free: int | None, device: torch.device) -> str:
    """Say what is needed of a device's memory, and what is free."""
    memory = "memory" if device == CPU else f"memory on {device}"
    return f"{gigabytes(size)} of {memory}" + (
        "" if free is None else f", of which {gigabytes(free)} are free"
    )

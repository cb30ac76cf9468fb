"""Activations of a whole image, kept as strips of rows that are dropped one by one, and sweeps over them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import OSEDiffError
from .geometry import Moments, Reach, Window, cut

Allocate = Callable[[tuple[int, ...], torch.dtype], Tensor]
Store = torch.device | Path | None
"""Where strips are kept: None is the device, a path the folder of files."""


@dataclass
class Activation:
    """One activation (B, C, height, width): strips (B, C, rows, width) by their first rows, top to bottom."""

    height: int
    width: int
    strips: dict[int, Tensor] = field(default_factory=dict)
    moments: Moments | None = None

    @property
    def channels(self) -> int:
        """C; the strips have it."""
        return next(iter(self.strips.values())).shape[1]

    def read(self, rows: tuple[int, int], columns: tuple[int, int], device: torch.device) -> Tensor:
        """Return those rows and columns on `device`, (B, C, h, w): it may share memory with what is kept."""
        parts = []
        for first, strip in self.strips.items():
            here = slice(max(rows[0] - first, 0), max(rows[1] - first, 0))
            part = strip[:, :, here, slice(*columns)]
            if part.shape[2]:
                parts.append(part.to(device))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def write(self, piece: Tensor, rows: tuple[int, int], column: int, allocate: Allocate | None) -> None:
        """Put a piece into the strip of those rows; with no `allocate` a piece of full width is the strip."""
        if allocate is None and piece.shape[-1] == self.width:
            self.strips[rows[0]] = piece
            return
        if rows[0] not in self.strips:
            shape = (*piece.shape[:2], rows[1] - rows[0], self.width)
            made = piece.new_empty(shape) if allocate is None else allocate(shape, piece.dtype)
            self.strips[rows[0]] = made
        self.strips[rows[0]][..., column : column + piece.shape[-1]] = piece

    def measure(self, piece: Tensor) -> None:
        """Add a piece to the statistics."""
        found = Moments.of(piece)
        self.moments = found if self.moments is None else self.moments.merge(found)

    def drop(self, row: int) -> None:
        """Forget the strips that end at or above `row`."""
        for first in [first for first, strip in self.strips.items() if first + strip.shape[2] <= row]:
            del self.strips[first]

    def whole(self) -> Tensor:
        """Return the activation in one piece, (B, C, height, width), and drop the strips."""
        strips = list(self.strips.values())
        self.strips.clear()
        return strips[0] if len(strips) == 1 else torch.cat(strips, dim=2)


@dataclass(frozen=True)
class Patch:
    """What a piece of output reads: data (B, C, h, w), and the zeros that a layer adds around it."""

    data: Tensor
    down: Window
    across: Window

    def core(self, reach: Reach) -> Tensor:
        """Return the data without the halo of a layer that keeps the size, (B, C, rows, columns)."""
        top, left = reach.before - self.down.before, reach.before - self.across.before
        bottom, right = reach.after - self.down.after, reach.after - self.across.after
        return self.data[..., top : self.data.shape[-2] - bottom, left : self.data.shape[-1] - right]


@dataclass(frozen=True)
class Operand:
    """An activation as a sweep reads it; `last`: for the last time, so that its rows are dropped behind."""

    activation: Activation
    reach: Reach = Reach()  # noqa: RUF009
    last: bool = True

    def patch(self, rows: tuple[int, int], columns: tuple[int, int], device: torch.device) -> Patch:
        """Return what the outputs in those rows and columns read, enlarged if the layer enlarges it."""
        up = self.reach.enlarge
        down = self.reach.window(*rows, self.activation.height * up)
        across = self.reach.window(*columns, self.activation.width * up)
        top, left = down.start // up, across.start // up
        data = self.activation.read((top, -(-down.stop // up)), (left, -(-across.stop // up)), device)
        if up > 1:
            data = F.interpolate(data, scale_factor=float(up), mode="nearest")
            data = data[..., down.start - top * up :, across.start - left * up :]
            data = data[..., : down.stop - down.start, : across.stop - across.start]
        return Patch(data, down, across)

    def finish(self, row: int, end: bool) -> None:
        """Drop what no output from `row` on reads; at the `end` everything."""
        if self.last and end:
            self.activation.strips.clear()
        elif self.last:
            up = self.reach.enlarge
            self.activation.drop(self.reach.window(row, row + 1, self.activation.height * up).start // up)


@dataclass(frozen=True)
class Sweeper:
    """Runs layers piece by piece.

    device: where pieces are computed. allocate: makes the strips that are kept, None to keep them there.
    values: how many numbers a piece may have in the wider of a layer's two activations. on_step: is
    called after every piece and may raise to stop.
    """

    device: torch.device
    values: int
    allocate: Allocate | None
    on_step: Callable[[], object] | None

    def sweep(
        self,
        operands: Sequence[Operand],
        channels: int,
        compute: Callable[..., tuple[Tensor, ...]],
    ) -> list[Activation]:
        """Return what `compute` gives, from a patch of every operand, put together over the image.

        channels: of the wider activation. The first result gets the statistics that a norm after it needs.
        The results are as large as the first operand's layer makes them.
        """
        first = operands[0]
        height, width = (first.reach.length(n) for n in (first.activation.height, first.activation.width))
        rows, columns = cut(height, width, max(1, self.values // channels))
        results: list[Activation] = []
        for strip in rows:
            for across in columns:
                pieces = compute(*[operand.patch(strip, across, self.device) for operand in operands])
                results = results or [Activation(height, width) for _ in pieces]
                for i, piece in enumerate(pieces):
                    if i == 0:
                        results[i].measure(piece)
                    results[i].write(piece, strip, across[0], self.allocate)
                del pieces
                if self.on_step is not None:
                    self.on_step()
            for operand in operands:
                operand.finish(strip[1], strip[1] == height)
        return results


def on_host(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Make a strip in the host's memory."""
    return torch.empty(shape, dtype=dtype)


def in_files(folder: Path) -> Allocate:
    """Return what makes strips in files of that folder, mapped into memory.

    The files have no name any more where the system allows that, so that nothing can leave them behind. A
    full disk is an OSEDiffError when a strip is made, and not a crash when it is written.
    """

    def allocate(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = torch.Size(shape).numel()
        handle, name = tempfile.mkstemp(dir=folder, suffix=".strip")
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, size * dtype.itemsize)
            return torch.from_file(name, shared=True, size=size, dtype=dtype).view(shape)
        except OSError as error:
            raise OSEDiffError(
                f"{folder} has no room for {size * dtype.itemsize / 2**30:.1f} GiB more ({error.strerror}): "
                "spill to another disk"
            ) from error
        finally:
            os.close(handle)
            with suppress(PermissionError):  # Windows: the folder is emptied later
                os.unlink(name)

    return allocate

"""How far it is from `restore` to the UNet: the project's frames, functions and files on a picture's way.

    python -m benchmarks.way

One picture of 48 x 64 pixels is restored by the demo. Counted are the project's own functions; those of the
networks (osediff_core/network) are not, for they are what the way leads to.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType

import torch

from osediff_core import OSEDiff, restore

ROOT = Path(__file__).resolve().parents[1]
NETWORK = ROOT / "osediff_core" / "network"
HEIGHT, WIDTH = 48, 64  # pixels: fits one tile, and the VAE runs whole


@dataclass
class Way:
    """What was entered. above_unet: the deepest row of the project's frames above the UNet's forward."""

    functions: set[CodeType] = field(default_factory=set)
    calls: int = 0
    above_unet: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[str]:
        """The files that the functions are in, by their paths in the project."""
        return sorted({_place(code) for code in self.functions})


@contextmanager
def watched(model: OSEDiff) -> Iterator[Way]:
    """Yield what is entered of the project inside."""
    way, forward = Way(), type(model.unet).forward.__code__

    def see(frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        if frame.f_code is forward:
            above = [_name(f.f_code) for f in _callers(frame.f_back) if _is_ours(f.f_code)]
            way.above_unet = max(way.above_unet, above, key=len)
        elif _is_ours(frame.f_code):
            way.functions.add(frame.f_code)
            way.calls += 1

    sys.setprofile(see)
    try:
        yield way
    finally:
        sys.setprofile(None)


def measure(model: OSEDiff) -> Way:
    """Restore one picture and return its way: longest for a model's first, whose prompt is not kept yet."""
    lq = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    with watched(model) as way:
        restore(model, lq)
    return way


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_ours(code: CodeType) -> bool:
    """Whether a function is the core's, no part of a network, and no comprehension inside another."""
    place = Path(code.co_filename)
    core = ROOT / "osediff_core" in place.parents and NETWORK not in place.parents
    return core and (code.co_name == "<lambda>" or not code.co_name.startswith("<"))


def _place(code: CodeType) -> str:
    return Path(code.co_filename).relative_to(ROOT).as_posix()


def _name(code: CodeType) -> str:
    return f"{_place(code)}:{code.co_firstlineno} {code.co_name}"


def main() -> None:
    """Print the figures, and what they count."""
    way = measure(OSEDiff.from_pretrained(device="cpu", dtype="float32"))
    print(f"{len(way.above_unet)} frames above the UNet's forward:")
    print("\n".join(f"    {name}" for name in reversed(way.above_unet)))
    print(f"{len(way.functions)} functions in {len(way.files)} files, {way.calls} calls:")
    for file in way.files:
        names = sorted(code.co_name for code in way.functions if _place(code) == file)
        print(f"    {file}: {', '.join(names)}")


if __name__ == "__main__":
    main()

"""The widgets that say how large the result is, and what they mean together."""

from __future__ import annotations

from dataclasses import dataclass

from comfy_api.latest import io

from ..osediff_core.errors import OSEDiffError
from ..osediff_core.sizes import COVER, DEFAULT_SCALE, FIT, LONG_SIDE, MEGAPIXELS, SCALE, SIZES, Size
from .newer import where_known

LARGEST = 32768  # pixels, for the widgets


@dataclass(frozen=True)
class SizeWidgets:
    """What the widgets beside the scale say, which are optional."""

    size: str = SCALE
    long_side: int = 2048
    megapixels: float = 4.0
    width: int = 1920
    height: int = 1080

    def chosen(self, scale: float) -> Size:
        """Return the size that the widgets say; OSEDiffError for a way that is none."""
        if self.size not in SIZES:
            raise OSEDiffError(f"the size goes by one of {', '.join(SIZES)}, got {self.size!r}")
        if self.size in (FIT, COVER):
            return Size(self.size, box=(self.height, self.width))
        values = {SCALE: scale, LONG_SIDE: self.long_side, MEGAPIXELS: self.megapixels}
        return Size(self.size, values[self.size])


DEFAULTS = SizeWidgets()


def scale_input() -> io.Float.Input:
    """Return the scale widget, the same on every node that has one."""
    return io.Float.Input(
        "scale",
        default=DEFAULT_SCALE,
        min=1.0,
        max=16.0,
        step=0.01,
        tooltip="How many times larger the result is: exactly width and height times the scale, rounded.",
    )


def size_inputs() -> list[io.Input]:
    """Return the widgets of the other ways: optional, and without effect where the size goes by the scale."""
    more = where_known(io.Int.Input, advanced=True)
    box = "Pixels, where size is fit or cover."
    pixels = {"min": 1, "max": LARGEST, "optional": True, **more}
    return [
        io.Combo.Input(
            "size",
            options=list(SIZES),
            default=DEFAULTS.size,
            optional=True,
            tooltip="What says how large the result is. scale: the number above. long side, megapixels: "
            "those below. fit: the largest that lies within width × height. cover: exactly width × height, "
            "where what stands out at two sides is cut off. Nothing is ever stretched.",
            **more,
        ),
        io.Int.Input(
            "long_side", default=DEFAULTS.long_side, tooltip="Pixels, where size is long side.", **pixels
        ),
        io.Float.Input(
            "megapixels",
            default=DEFAULTS.megapixels,
            min=0.01,
            max=1000.0,
            step=0.01,
            optional=True,
            tooltip="Millions of pixels, where size is megapixels.",
            **more,
        ),
        io.Int.Input("width", default=DEFAULTS.width, tooltip=box, **pixels),
        io.Int.Input("height", default=DEFAULTS.height, tooltip=box, **pixels),
    ]


def size_outputs() -> list[io.Output]:
    """Return the size of the result."""
    return [
        io.Int.Output(display_name="width", tooltip="Of the result, in pixels."),
        io.Int.Output(display_name="height", tooltip="Of the result, in pixels."),
    ]

"""How large a picture is to become. Sizes are (height, width) in pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import OSEDiffError

DEFAULT_SCALE = 4.0  # what OSEDiff was trained for (section 4.1 of the paper)
SCALE, LONG_SIDE, MEGAPIXELS, FIT, COVER = SIZES = ("scale", "long side", "megapixels", "fit", "cover")


@dataclass(frozen=True)
class Size:
    """A wish for a size, in one of five ways; no picture is ever stretched.

    by: "scale", "long side" (pixels) or "megapixels" (millions of pixels), whose number is `value`; "fit",
    the largest that lies within `box`, or "cover", the smallest that `box` lies within, of which the middle
    is kept, so that the result is the box. box: (height, width).
    """

    by: str = SCALE
    value: float = DEFAULT_SCALE
    box: tuple[int, int] = (0, 0)

    def of(self, height: int, width: int) -> tuple[float, tuple[int, int]]:
        """Return the scale for a picture of that size, and the size of the result.

        Raises OSEDiffError where the picture would have to shrink.
        """
        from .resize import target_size  # with torch, which --help does without

        scale = self._scale(height, width)
        if self.by != SCALE and scale < 1:
            raise OSEDiffError(
                f"a picture of {width} x {height} is larger than {self}: take more, or shrink it first"
            )
        size = target_size(height, width, scale)
        return scale, self.box if self.by == COVER else size

    def _scale(self, height: int, width: int) -> float:
        if self.by == LONG_SIDE:
            return self.value / max(height, width)
        if self.by == MEGAPIXELS:
            return math.sqrt(self.value * 1e6 / (height * width))
        if self.by in (FIT, COVER):
            ratios = self.box[0] / height, self.box[1] / width
            return min(ratios) if self.by == FIT else max(ratios)
        return self.value

    def __str__(self) -> str:
        """Say it as on the command line."""
        if self.by in (FIT, COVER):
            return f"{self.by} {self.box[1]} x {self.box[0]}"
        return f"{self.by} {self.value:g}"


FOUR_TIMES = Size()

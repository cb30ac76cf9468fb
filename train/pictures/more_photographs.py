"""Free photographs that Debian packages bring along: more, and larger, than Python packages have.

They stay where they are: the repository holds their names, authors and licences, as the packages give them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

LONG_SIDE = 1400
"""Longest side that is kept, pixels: cameras' full resolution is soft, and would teach softness."""
CROP = 192
"""Side of the crops to choose by, pixels: the table's."""


@dataclass(frozen=True)
class Photograph:
    """One photograph: the package, the file below /usr/share, and whose it is by which licence.

    choosing: kept out of training, for choosing among models. group: what its file's name begins with; the
    demo's configs choose by it.
    """

    package: str
    file: str
    author: str
    licence: str
    choosing: bool = False
    group: str = "more"


def _wallpaper(name: str, author: str, licence: str = "CC BY 4.0", choosing: bool = False) -> Photograph:
    return Photograph("lomiri-wallpapers-16.04", f"backgrounds/{name}.jpg", author, licence, choosing)


def _puzzle(name: str, author: str, choosing: bool = False) -> Photograph:
    return Photograph("palapeli-data", f"palapeli/collection/{name}.jpg", author, "public domain", choosing)


def _sample(name: str, author: str, licence: str, choosing: bool = False) -> Photograph:
    return Photograph("libjxl-testdata", f"libjxl-testdata/{name}.png", author, licence, choosing)


def _background(name: str) -> Photograph:
    file = f"backgrounds/budgie/{name}.jpg"
    return Photograph("budgie-backgrounds", file, "Budgie Desktop Developers", "CC0", group="further")


def _theme(year: str, name: str) -> Photograph:
    theme = f"twentytwenty{year}"
    file = f"wordpress/wp-content/themes/{theme}/assets/images/{name}.webp"
    return Photograph(f"wordpress-theme-{theme}", file, "rawpixel", "CC0", group="further")


MORE = (
    _wallpaper("Picture_0B_by_freespace", 'Trevor "Freespace"'),
    _wallpaper("Picture_1A_by_freespace", 'Trevor "Freespace"'),
    _wallpaper("Wine_by_Jakkub_Mede", "Jakub Mede"),
    _wallpaper("aitzgorri_by_Aitzol_Berasategi", "Aitzol Berasategi"),
    _wallpaper("friends_by_Aitzol_Berasategi", "Aitzol Berasategi", choosing=True),
    _wallpaper("life_by_Aitzol_Berasategi", "Aitzol Berasategi"),
    _wallpaper("picosdeeuropa_by_Aitzol_Berasategi", "Aitzol Berasategi"),
    _wallpaper("sunset_by_Aitzol_Berasategi", "Aitzol Berasategi"),
    _wallpaper("seeding_by_Clements_Engelhardt", "Clemens Engelhardt", "CC0"),
    _puzzle("cincinnati-bridge", "Derek Jensen", choosing=True),
    _puzzle("citrus-fruits", "US Department of Agriculture"),
    _puzzle("european-honey-bee", "John Severns"),
    _sample("external/wesaturate/500px/cvo9xd_keong_macan_srgb8", "keong_macan", "CC0", choosing=True),
    _sample("external/wesaturate/500px/tmshre_riaphotographs_srgb8", "riaphotographs", "CC0", choosing=True),
    _sample("external/wesaturate/500px/u76c0g_bliznaca_srgb8", "bliznaca", "CC0"),
    _sample("jxl/flower/flower", "the JPEG XL Project Authors", "BSD-3-Clause"),
    _background("abstract-spiral"),
    _background("beacon-street-sunset"),
    _background("blue-periwinkle"),
    _background("canyon-wren"),
    _background("casa-mila"),
    _background("extreme-desert-hike"),
    _background("high-trestle-trail"),
    _background("lake-sherburne"),
    _background("oakland-zoo-otters"),
    _background("perched-osprey"),
    _background("piazza-gae-aulenti"),
    _background("roman-colosseum"),
    _background("singaporean-cityscape"),
    _background("tea-gardens"),
    _theme("four", "abstract-geometric-art"),
    _theme("four", "angular-roof"),
    _theme("four", "art-gallery"),
    _theme("four", "building-exterior"),
    _theme("four", "green-staircase"),
    _theme("four", "hotel-facade"),
    _theme("four", "museum"),
    _theme("four", "tourist-and-building"),
    _theme("four", "windows"),
    _theme("five", "akaka-falls-state-park-flora"),
    _theme("five", "coral-square"),
    _theme("five", "malibu-plantlife"),
)
"""What is taken of the six packages: photographs with a free licence that asks for attribution at most."""


def shrunken(picture: Tensor) -> Tensor:
    """Shrink uint8 (3, H, W) to LONG_SIDE on its longest side; a smaller one stays as it is."""
    from osediff_core.resize import resize_bicubic

    height, width = picture.shape[1:]
    factor = LONG_SIDE / max(height, width)
    if factor >= 1:
        return picture
    return resize_bicubic(picture[None], (round(height * factor), round(width * factor)))[0]


def crops_to_choose_by(picture: Tensor) -> Iterator[Tensor]:
    """Cut uint8 (3, H, W) into six crops (3, CROP, CROP), three across and two down, evenly spread."""
    rows, columns = (side - CROP for side in picture.shape[1:])
    for top in (rows // 4, rows * 3 // 4):
        for left in (columns // 6, columns // 2, columns * 5 // 6):
            yield picture[:, top : top + CROP, left : left + CROP]

"""Fuzz the reader of pictures."""

import io

from target import run, watched

with watched():
    from osediff_core.pictures.images import read_image


KINDS = ("RGB PNG", "RGBA PNG", "P PNG", "I;16 PNG", "RGB JPEG", "CMYK JPEG", "RGB WEBP", "RGB TIFF",
         "I;16 TIFF", "RGB BMP", "P GIF")  # fmt: skip


def seeds() -> list[bytes]:
    """Return a small picture of each kind."""
    from PIL import Image

    found = []
    for mode, kind in map(str.split, KINDS):
        file = io.BytesIO()
        Image.new(mode, (5, 3)).save(file, kind)
        found.append(file.getvalue())
    return found


if __name__ == "__main__":
    run(read_image, seeds(), "x.png")

"""Whatever a file holds, reading ends in a picture or in one sentence; writing and reading agree."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import read_image, write_image

QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def encoded(kind):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    noise = np.random.default_rng(1).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind, exif=exif.tobytes())
    return buffer.getvalue()


FILES = {kind: encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")}


@QUICK
@given(
    kind=st.sampled_from(sorted(FILES)),
    end=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
)
def test_a_damaged_file_is_a_picture_or_a_sentence(tmp_path, kind, end, changes):
    data = bytearray(FILES[kind])
    for where, value in changes:
        data[int(where * len(data))] = value
    path = tmp_path / "a.png"
    path.write_bytes(data[: len(data) if end > 0.5 else int(2 * end * len(data))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            shape, said = tuple(read_image(path).rgb.shape), ""
        except OSEDiffError as error:
            shape, said = None, str(error)
    assert str(path) in said if shape is None else shape[:2] == (1, 3)


@QUICK
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    suffix=st.sampled_from([".png", ".tif", ".webp"]),
    transparent=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_what_is_written_is_read_again(tmp_path, height, width, suffix, transparent, seed):
    generator = torch.Generator().manual_seed(seed)
    sr = torch.rand(1, 3, height, width, generator=generator)
    alpha = torch.randint(0, 256, (1, 1, height, width), generator=generator, dtype=torch.uint8)
    alpha[..., 0, 0] = 0  # WebP drops an alpha channel that is opaque everywhere
    path = tmp_path / f"a{suffix}"
    write_image(path, sr, alpha if transparent else None)
    back = read_image(path)
    shown = (alpha > 0) | (not transparent)
    assert ((back.rgb / 255 - sr).abs() * shown).max() <= 0.5 / 255 + 1e-6
    assert torch.equal(back.alpha, alpha) if transparent else back.alpha is None

"""--offload, --vae and --spill reach the core, and give the same picture."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image


def osediff(*args):
    return subprocess.run([sys.executable, "-m", "osediff_core", *args], capture_output=True, text=True)


@pytest.mark.slow
def test_pieces_offloading_and_files_give_the_same_picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    pictures = []
    for i, options in enumerate([[], ["--offload", "parts", "--vae", "32", "--spill", str(tmp_path)]]):
        out = tmp_path / f"{i}.png"
        done = osediff(str(tmp_path / "in.png"), str(out), *options)
        assert done.returncode == 0, done.stderr
        pictures.append(np.asarray(Image.open(out)).astype(int))
    assert abs(pictures[0] - pictures[1]).max() <= 1
    assert {path.name for path in tmp_path.iterdir()} == {"in.png", "0.png", "1.png"}


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--vae", "8"], "at least 32"), (["--vae", "some"], "auto, whole"), (["--offload", "all"], "none")],
)
def test_choices_that_are_none_are_refused_at_once(options, words):
    done = osediff("in.png", "out.png", *options)
    assert done.returncode == 2
    assert words in done.stderr

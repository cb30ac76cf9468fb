"""The command line from end to end: what is done, what is said, what is left as it was."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osediff_core import restore
from osediff_core.commands.cli import main

ROOT = Path(__file__).resolve().parents[3]


def test_one_picture_is_what_restore_gives_rounded(osediff, tmp_path, model, picture):
    lq = picture("a.png", (13, 9))
    status, said = osediff("a.png", "out/b.png", "--scale", "2.5", "--color", "wavelet", "--prompt", "a cat")
    assert (status, said) == (0, "osediff: no --base and --weights: using the bundled demo, a small model "
                              "(README.md: the real weights)\nosediff: wrote out/b.png\n")  # fmt: skip
    want = restore(model, lq, scale=2.5, color="wavelet", prompt="a cat")
    got = np.asarray(Image.open(tmp_path / "out" / "b.png")).astype(float)
    assert got.shape == (23, 33, 3)
    assert np.abs(got - want[0].permute(1, 2, 0).numpy() * 255).max() <= 0.5001
    other = restore(model, lq, scale=2.5, color="none", prompt="a cat")
    assert np.abs(got - other[0].permute(1, 2, 0).numpy() * 255).max() > 5  # the options are heard


def test_real_loading_and_every_option(tmp_path, monkeypatch, capsys, picture, size_of, micro_options):
    monkeypatch.chdir(tmp_path)
    picture("a.png")
    picture_options = ["--scale", "3", "--tile", "2", "--overlap", "1", "--quality", "80", "--format", "webp"]
    model_options = [*micro_options, "--dtype", "float32", "--strength", "0.5"]
    assert main(["a.png", "out", *model_options, *picture_options]) == 0
    assert size_of("out/a.webp") == (30, 24)
    assert capsys.readouterr().err == "osediff: wrote out/a.webp\n"


@pytest.mark.parametrize(
    ("target", "written"), [("out", "out/a.png"), ("out/", "out/a.png"), ("new/x.JPG", "new/x.JPG")]
)
def test_where_one_picture_goes(osediff, target, written, picture, tree):
    picture("a.tif")
    assert osediff("a.tif", target, "--quiet") == (0, "")
    assert tree() == ["a.tif", written]


def test_a_result_that_exists_is_replaced_only_if_told(osediff, tmp_path, picture, size_of):
    picture("a.png")
    (tmp_path / "b.png").write_bytes(b"precious")
    status, said = osediff("a.png", "b.png")
    assert status == 2
    assert "--overwrite" in said
    assert (tmp_path / "b.png").read_bytes() == b"precious"
    assert osediff("a.png", "b.png", "--overwrite", "--scale", "1")[0] == 0
    assert size_of("b.png") == (10, 8)


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_picture_is_never_written_over_itself(osediff, tmp_path, options, picture):
    picture("a.png")
    before = (tmp_path / "a.png").read_bytes()
    for target in ("a.png", "./a.png", "."):
        assert osediff("a.png", target, *options)[0] == 2
    assert (tmp_path / "a.png").read_bytes() == before


def test_transparency_and_orientation_arrive(osediff, tmp_path):
    image = Image.new("RGBA", (6, 4), (200, 100, 50, 255))
    image.putpixel((0, 0), (200, 100, 50, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif.tobytes())
    assert osediff("a.png", "b.png")[0] == 0
    with Image.open(tmp_path / "b.png") as out:
        assert (out.size, out.mode) == ((16, 24), "RGBA")
        assert out.getexif().get(0x0112, 1) == 1
        alpha = np.asarray(out.getchannel("A"))
    assert alpha[0, -1] < 50  # the clear corner has turned with the picture
    assert alpha[-1, 0] == 255
    status, said = osediff("a.png", "b.jpg")
    assert status == 0
    assert "b.jpg cannot be transparent" in said


def test_a_folder_goes_on_past_bad_files_and_skips_what_is_done(osediff, tmp_path, picture, size_of, tree):
    for name in ("in/a.png", "in/b.webp", "in/deep/c.bmp"):
        picture(name)
    (tmp_path / "in" / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "in" / "notes.txt").write_text("left alone")
    (tmp_path / "in" / "._a.png").write_bytes(b"what macOS leaves about")
    status, said = osediff("in", "out")
    assert status == 1
    assert said.splitlines()[-2].startswith("osediff: error: in/bad.jpg is not a picture")
    assert said.splitlines()[-1] == "osediff: 2 restored, 1 failed"
    assert tree("out") == ["a.png", "b.png"]
    (tmp_path / "in" / "bad.jpg").unlink()
    (tmp_path / "out" / "a.png").write_bytes(b"done before")
    status, said = osediff("in", "out")
    assert (status, said.splitlines()) == (
        0,
        [
            "osediff: left out: 1 hidden or system file, 1 TXT, 1 folder inside; "
            "--recursive looks into folders",
            "osediff: nothing to do: all 2 are there already (--overwrite does them again)",
        ],
    )
    assert (tmp_path / "out" / "a.png").read_bytes() == b"done before"
    assert osediff("in", "out", "--overwrite", "--recursive", "--quiet") == (0, "")
    assert tree("out") == ["a.png", "b.png", "deep/c.png"]
    assert size_of("out/a.png") == (40, 32)


def test_results_inside_the_folder_are_not_taken_for_pictures(osediff, picture, tree):
    picture("in/a.png")
    for _ in range(2):
        assert osediff("in", "in/out", "--recursive", "--overwrite")[0] == 0
    assert tree("in") == ["a.png", "out/a.png"]


def test_a_folder_below_its_results(osediff, picture, size_of):
    picture("in/a.png")
    assert osediff("in", ".")[0] == 0
    assert size_of("a.png") == (40, 32)


def test_pictures_of_one_name_keep_apart(osediff, picture, size_of, tree):
    picture("in/a.png", (4, 4))
    picture("in/A.jpg", (5, 5))
    assert osediff("in", "out", "--scale", "1")[0] == 0
    assert tree("out") == ["A_jpg.png", "a_png.png"]
    assert size_of("out/A_jpg.png") == (5, 5)
    picture("in/a_png.bmp")
    picture("in/a.jpg")
    assert osediff("in", "new", "--scale", "1")[0] == 0
    assert tree("new") == ["A_jpg.png", "a_jpg_2.png", "a_png.png", "a_png_2.png"]


def test_originals_are_never_overwritten_from_a_folder(osediff, tmp_path, picture):
    picture("a/a/x.png")
    before = (tmp_path / "a" / "a" / "x.png").read_bytes()
    picture("a/x.png")
    status, said = osediff("a/a", "a", "--overwrite")  # a/x.png is no source here
    assert status == 0
    status, said = osediff("a", ".", "--overwrite", "--recursive")
    assert status == 2
    assert "would be written over" in said
    assert (tmp_path / "a" / "a" / "x.png").read_bytes() == before


def program(*argv, cwd):
    command = [sys.executable, "-m", "osediff_core", *argv]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_help_and_mistakes_do_not_wait_for_torch():
    code = (
        "import sys; from osediff_core.commands.cli import main\n"
        "for argv in (['--help'], ['nowhere', 'x'], ['a', 'b', '--scale', '0']):\n"
        "    try: main(argv)\n"
        "    except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'diffusers', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"
    assert "exit status: 0 all is done" in out.stdout


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_as_a_program_interrupted(tmp_path, picture, micro_options):
    """Ctrl-C in the middle of a folder; all that was said until then are its own lines."""
    for i in range(40):
        picture(f"in/{i:02}.png", (60, 60))
    out = tmp_path / "out"
    with program("in", "out", *micro_options, cwd=tmp_path) as process:
        limit = time.monotonic() + 300
        while not (out.is_dir() and any(name.endswith(".png") for name in os.listdir(out))):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, err = process.communicate(timeout=300)
    done = [name for name in os.listdir(out) if name.endswith(".png")]
    assert (process.returncode, said) == (130, "")
    assert len(done) == len(os.listdir(out)) < 40
    # The signal may come between the renaming of the last file and its counting.
    assert err.splitlines()[-1] in {
        f"osediff: interrupted; {n} of 40 done" for n in (len(done) - 1, len(done))
    }
    assert all(line.startswith("osediff: ") for line in err.splitlines())


def test_bars_on_a_terminal(osediff, picture, monkeypatch):
    for name in ("a", "b"):
        picture(f"in/{name}.png", (30, 30))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, said = osediff("in", "out", "--tile", "8", "--overlap", "2")
    assert status == 0
    assert re.search(r"a\.png: .*\d+/\d+ .*part", said)
    assert "/2 [" in said  # the bar over pictures
    assert "in/a.png" not in said  # no line for each picture where there are bars
    assert osediff("in", "out", "--overwrite", "--quiet") == (0, "")

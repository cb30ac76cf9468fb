"""What earlier runs left: cut results, another scale, results inside IN; and odd things in folders."""

import io
import os
import shutil
import time

import pytest
from PIL import Image

from osediff_core.pictures.results import is_cut

FORMATS = ("png", "jpg", "webp", "tif", "bmp")


@pytest.fixture
def noise():
    """The bytes of a picture in a format, with no part that could be left out."""

    def encode(ending, size=(64, 48)):
        image = Image.frombytes("RGB", size, os.urandom(size[0] * size[1] * 3))
        buffer = io.BytesIO()
        image.save(buffer, Image.registered_extensions()[f".{ending}"])
        return buffer.getvalue()

    return encode


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("ending", FORMATS)
def test_a_cut_picture_is_told_wherever_it_was_cut(noise, tmp_path, ending):
    path, content = tmp_path / "a", noise(ending)
    path.write_bytes(content)
    assert not is_cut(path)
    path.write_bytes(content + b"what another program hung on")
    assert not is_cut(path)
    for share in (0, 0.001, 0.01, 0.5, 0.9, 0.999):
        path.write_bytes(content[: int(len(content) * share)])
        assert is_cut(path), share
    path.write_bytes(content[:-1] if ending != "png" else content[:-9])
    assert is_cut(path)
    path.write_bytes(bytes(len(content)))  # room that was never filled
    assert is_cut(path)
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    assert is_cut(path) or ending in ("webp", "tif", "bmp")  # whose end has no mark


def test_what_is_no_picture_is_not_taken_for_a_cut_one(tmp_path):
    (tmp_path / "a").write_bytes(b"a text, and longer than any signature")
    assert not is_cut(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n", bytes(5000)])
def test_cut_results_are_made_again(osediff, tmp_path, picture, size_of, content):
    picture("in/a.png")
    picture("in/b.png")
    assert osediff("in", "out")[0] == 0
    before = (tmp_path / "out" / "b.png").stat().st_mtime_ns
    (tmp_path / "out" / "a.png").write_bytes(content)
    assert osediff("in", "out")[0] == 0
    assert size_of("out/a.png") == (40, 32)
    assert (tmp_path / "out" / "b.png").stat().st_mtime_ns == before
    (tmp_path / "out" / "a.png").write_bytes(content)
    assert osediff("in/a.png", "out")[0] == 0  # a single picture alike
    assert size_of("out/a.png") == (40, 32)


def test_results_at_another_scale_are_told_and_kept(osediff, picture, size_of):
    picture("in/a.png")
    picture("in/b.png")
    assert osediff("in", "out")[0] == 0
    status, said = osediff("in", "out", "--scale", "2")
    assert status == 0
    assert "2 of the results that are there were made with scale 4, not scale 2" in said
    assert "--overwrite changed" in said
    assert size_of("out/a.png") == (40, 32)
    assert "made with" not in osediff("in", "out")[1]
    status, said = osediff("in/a.png", "out", "--scale", "2")
    assert status == 2
    assert "exists, made with scale 4, not scale 2;" in said
    assert "made with" not in osediff("in/a.png", "out")[1]


@pytest.mark.parametrize("first", ["in/x4", "in/deep/x4"])
def test_results_of_another_run_inside_are_not_restored(osediff, tmp_path, picture, tree, first):
    picture("in/a.jpg")
    picture("in/deep/b.png")
    picture("in/large/c.png", (40, 32))  # has no original here
    assert osediff("in", first, "--recursive")[0] == 0
    status, said = osediff("in", "out", "--recursive", "--scale", "1")
    assert status == 0
    assert "3 that earlier runs made of others" in said
    assert tree("out") == ["a.png", "deep/b.png", "large/c.png"]
    assert osediff(first, "again", "--recursive", "--scale", "1")[0] == 0
    assert len(tree("again")) == 3


def test_a_small_copy_above_its_older_original_is_no_original(osediff, tmp_path, picture, tree):
    picture("in/full/a.png", (40, 32))
    old = time.time() - 1000
    os.utime(tmp_path / "in" / "full" / "a.png", (old, old))
    picture("in/a.png")
    assert osediff("in", "out", "--recursive", "--scale", "1")[0] == 0
    assert tree("out") == ["a.png", "full/a.png"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("target", ["out", "in/out"])
def test_a_link_that_loops_is_named(osediff, tmp_path, picture, tree, target):
    picture("in/a.png")
    (tmp_path / "in" / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "in" / "v.avi").write_bytes(b"film")
    status, said = osediff("in", target, "--recursive")
    assert status == 0
    assert "osediff: left out: 1 AVI, 1 link that loops\n" in said or "1 link that loops, 1 AVI" in said
    assert tree(target) == ["a.png"]
    (tmp_path / "ring").symlink_to("ring")
    assert osediff("in", "ring")[0] == 2
    assert osediff("ring", "new")[0] == 2


def test_a_folder_without_pictures_says_what_it_holds(osediff, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.avi", "b.avi"):
        (tmp_path / "in" / name).touch()
    status, said = osediff("in", "out")
    assert status == 2
    assert "left out: 2 AVI" in said


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders there")
def test_pipes_keep_nobody_waiting(osediff, tmp_path, picture):
    picture("in/a.png")
    os.mkfifo(tmp_path / "in" / "p.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "a.png")
    assert osediff("pipe.png", "x.png")[0] == 2
    assert osediff("in/a.png", "pipe.png")[0] == 2
    status, said = osediff("in", "out")
    assert status == 2
    assert "out/a.png is a pipe, socket or device" in said
    shutil.rmtree(tmp_path / "out")
    status, said = osediff("in", "out")
    assert status == 0
    assert "left out: 1 pipe, socket or device" in said


def test_accents_in_both_spellings_keep_apart(osediff, tmp_path, picture, tree):
    picture("in/\u00e9.png")
    picture("in/e\u0301.png")
    if len(os.listdir(tmp_path / "in")) == 1:
        pytest.skip("the file system takes both spellings for one name")
    assert osediff("in", "out", "--scale", "1")[0] == 0
    assert len(tree("out")) == 2
    assert "\u00e9.png" not in tree("out")
    assert "e\u0301.png" not in tree("out")

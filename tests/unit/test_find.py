"""Finding files in folders: links, loops, hidden folders, what is no file; and that all of it is counted."""

import os
import socket
import sys

import pytest

from osediff_core.pictures import find
from osediff_core.pictures.find import find_files, in_words, is_hidden


@pytest.fixture
def folder(tmp_path):
    """A folder, and a maker of empty files in it."""

    def make(*names):
        for name in names:
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).touch()
        return tmp_path / "in"

    return make


def names(found, root):
    return [path.relative_to(root).as_posix() for path in found.files]


def walk(root, recursive=True, **options):
    found = find_files(root, (".png",), recursive=recursive, **options)
    return names(found, root), +found.left_out


def test_names_in_order_and_the_rest_by_ending(folder):
    root = folder("b.PNG", "a.png", "d/c.png", "x.heic", "y.HEIC", "README")
    assert walk(root) == (["a.png", "b.PNG", "d/c.png"], {"HEIC": 2, "without an ending": 1})
    files, left_out = walk(root, recursive=False)
    assert files == ["a.png", "b.PNG"]
    assert left_out[find.INSIDE] == 1


@pytest.mark.parametrize(
    "name",
    [
        *(".git", "._a.png", "@eaDir", "@EADIR", "__MACOSX", ".thumbnails", ".ipynb_checkpoints"),
        *("$RECYCLE.BIN", "System Volume Information", "lost+found", "Thumbs.db", "#recycle", ".Trash-1000"),
    ],
)
def test_what_systems_leave_about_is_hidden(folder, name):
    assert is_hidden(name)
    assert walk(folder("a.png", f"{name}/b.png")) == (["a.png"], {find.HIDDEN: 1})


def test_names_like_those_of_systems_are_seen(folder):
    root = folder("a..png", "thumbs/b.png", "lost/c.png", "macosx/d.png")
    assert len(walk(root)[0]) == 4
    assert names(find_files(folder(".mine/e.png") / ".mine", (".png",), recursive=True), root / ".mine") == [
        "e.png"
    ]  # a folder that is named is looked into


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
class TestLinks:
    def test_loops_end(self, folder, tmp_path):
        root = folder("a.png", "d/b.png")
        (root / "self.png").symlink_to("self.png")
        (root / "here").symlink_to(".")
        (root / "d" / "up").symlink_to("../..")
        (root / "nowhere.png").symlink_to("gone.png")
        assert walk(root) == (["a.png", "d/b.png"], {find.LOOP: 3, find.NOWHERE: 1})

    def test_a_linked_folder_is_walked_once_under_its_own_name(self, folder, tmp_path):
        root = folder("z/b.png")
        (root / "a").symlink_to("z")
        for name in ("one", "two"):
            (root / name).symlink_to(tmp_path / "other")
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "c.png").touch()
        (tmp_path / "other" / "back").symlink_to(root)
        files, left_out = walk(root)
        assert files == ["one/c.png", "z/b.png"]
        assert left_out == {find.AGAIN: 3}

    def test_two_loops_do_not_multiply(self, folder, tmp_path):
        root = folder("x/a.png", "y/b.png")
        for here, there in (("x", "y"), ("y", "x")):
            for number in range(8):
                (root / here / f"l{number}").symlink_to(root / there)
        assert walk(root)[0] == ["x/a.png", "y/b.png"]

    def test_linked_pictures_are_pictures(self, folder, tmp_path):
        root = folder("a.png")
        (tmp_path / "real").touch()
        (root / "b.png").symlink_to(tmp_path / "real")
        assert walk(root)[0] == ["a.png", "b.png"]

    def test_the_folder_apart_is_not_entered_by_a_link_either(self, folder):
        root = folder("a.png", "out/b.png")
        (root / "way").symlink_to("out")
        assert walk(root, apart=root / "out")[0] == ["a.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders there")
def test_what_is_no_file_is_left_out(folder, monkeypatch):
    root = folder("a.png")
    os.mkfifo(root / "pipe.png")
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.png")
        assert walk(root) == (["a.png"], {find.SPECIAL: 2})


def test_a_folder_that_cannot_be_read_is_counted_and_the_one_named_raises(folder, monkeypatch):
    root = folder("a.png", "closed/b.png")
    real = os.scandir

    def scandir(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert walk(root) == (["a.png"], {find.CLOSED: 1})
    with pytest.raises(PermissionError):
        walk(root / "closed")


@pytest.mark.skipif(sys.platform != "linux", reason="names there are text")
def test_names_that_are_not_utf8(folder):
    root = folder("a.png")
    with open(os.fsencode(root) + b"/\xff.png", "wb"):
        pass
    assert [os.fsencode(path.name) for path in find_files(root, (".png",), recursive=True).files] == [
        b"a.png",
        b"\xff.png",
    ]


def test_words_are_bounded(folder):
    left_out = find_files(folder(*(f"f.{n:03}" for n in range(100)), "g.heic", "h.heic"), (), recursive=True)
    words = in_words(left_out.left_out)
    assert words.startswith("2 HEIC, 1 ")
    assert words.endswith(", 93 others")

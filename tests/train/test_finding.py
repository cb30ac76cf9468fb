"""Where training pictures are looked for: what is left out, what is a pattern, list files of any editor."""

import codecs
import io
import logging
import os
import tarfile

import pytest

from osediff_core.errors import OSEDiffError
from train.base.crops import load_pictures
from train.data import find_pictures


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A maker of empty files below an empty working folder."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def found(*sources):
    return [item.name for item in find_pictures(sources)]


SYSTEMS = ("in/._a.png", "in/@eaDir/a.png/b.jpg", "in/__MACOSX/c.jpg", "in/.thumbnails/a.png")
SYSTEMS_AND_MORE = (*SYSTEMS, "in/d/.ipynb_checkpoints/a-checkpoint.png", "in/$RECYCLE.BIN/x.png")


@pytest.mark.parametrize("source", ["in", "in/**", "in/**/*", "i*/**/*.*g"])
def test_folders_of_systems_are_left_out_and_counted(tree, caplog, source):
    tree("in/a.png", "in/d/b.jpeg", *SYSTEMS_AND_MORE)
    assert found(source) == ["in/a.png", "in/d/b.jpeg"]
    assert "6 hidden or system files" in caplog.text


@pytest.mark.parametrize("source", ["in/*/*.png", "in/*/*"])
def test_patterns_pass_over_them_unless_they_name_them(tree, source):
    tree("in/d/a.png", "in/@eaDir/b.png", "in/.cache/c.png")
    assert found(source) == ["in/d/a.png"]
    assert found("in/@eaDir/*.png") == ["in/@eaDir/b.png"]
    assert found("in/.cache/*.png", "in/@eaDir") == ["in/.cache/c.png", "in/@eaDir/b.png"]


def test_shards_leave_them_out_as_well(tree, caplog):
    root = tree()
    with tarfile.open(root / "a.tar", "w") as tar:
        for name in ("a.png", "./b.png", "@eaDir/c.png", "__MACOSX/._d.png", "e/.f.png"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert found("a.tar") == ["a.tar/a.png", "a.tar/./b.png"]
    assert "3 hidden or system files" in caplog.text


def test_what_else_a_folder_holds_is_said_once(tree, caplog):
    tree("in/a.png", "in/b.jfif", "in/c.psd", "in/d.PSD", "in/a.txt")
    with caplog.at_level(logging.WARNING):
        assert found("in") == ["in/a.png", "in/b.jfif"]
    assert [record.getMessage() for record in caplog.records] == [
        "Left out of the training pictures: 2 PSD, 1 TXT"
    ]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("source", ["in", "in/**/*.png", "in/**"])
def test_loops_and_links(tree, source):
    root = tree("in/x/a.png", "in/y/b.png", "other/c.png")
    for number in range(6):
        (root / "in" / "x" / f"l{number}").symlink_to(root / "in" / "y")
        (root / "in" / "y" / f"l{number}").symlink_to(root / "in")
    (root / "in" / "z.png").symlink_to("z.png")
    (root / "in" / "z").symlink_to(root / "other")
    assert found(source) == ["in/x/a.png", "in/y/b.png", "in/z/c.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders there")
def test_pipes_keep_nobody_waiting(tree):
    root = tree("in/a.png")
    for name in ("b.png", "c.tar", "d.txt"):
        os.mkfifo(root / "in" / name)
    assert found("in") == found("in/*") == ["in/a.png"]
    for name in ("b.png", "c.tar", "d.txt"):
        with pytest.raises(OSEDiffError, match="does not exist or holds no picture"):
            found(f"in/{name}")


def test_what_is_there_is_no_pattern(tree):
    root = tree("shoot [2024]/a.png", "shoot [2024]/d [1]/b.png", "shoot 2/c.png", "d[1].png", "d1.png")
    (root / "shoot [2024]" / "list.txt").write_text("*.png\n**/b.*\nd [1]/*\n")
    inside = "shoot [2024]"
    assert found("shoot [2024]/list.txt") == [f"{inside}/a.png", *[f"{inside}/d [1]/b.png"] * 2]
    assert found("shoot [2024]/*.png") == [f"{inside}/a.png"]
    assert found("shoot [2024]/d [1]/[ab].png") == [f"{inside}/d [1]/b.png"]
    assert found(str(root / "shoot [2024]" / "?.png")) == [str(root / inside / "a.png")]
    assert found("d[1].png") == ["d[1].png"]
    assert found("shoot [23]/*.png") == ["shoot 2/c.png"]  # is not there as it is written


@pytest.mark.parametrize("text", ["a.png\nd é.png\n", "a.png\r\nd é.png\r\n", "a.png\rd é.png"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_lists_of_any_editor(tree, text, mark):
    (tree("a.png", "d é.png") / "list.txt").write_bytes(mark + text.encode())
    assert found("list.txt") == ["a.png", "d é.png"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_list_in_other_letters_says_which(tree, encoding):
    (tree("a.png") / "list.txt").write_text("a.png", encoding=encoding)
    with pytest.raises(OSEDiffError, match=rf"list\.txt cannot be read: it is {encoding.upper()} text"):
        found("list.txt")


@pytest.mark.parametrize("lists", [{"a": "a.txt"}, {"a": "b.txt", "b": "./a.txt"}])
def test_a_list_that_leads_to_itself_is_named(tree, lists):
    root = tree("p.png")
    for name, text in lists.items():
        (root / f"{name}.txt").write_text(f"p.png\n{text}\n")
    with pytest.raises(OSEDiffError, match=r"the list a\.txt leads to itself"):
        found("a.txt")


@pytest.mark.parametrize(("names", "times"), [(12, 10), (400, 1)])
def test_lists_in_lists_are_bounded(tree, names, times):
    root = tree("p.png")
    for number in range(names):
        (root / f"{number}.txt").write_text(f"{number + 1}.txt\n" * times)
    (root / f"{names}.txt").write_text("p.png")
    with pytest.raises(OSEDiffError, match="at most 10000 lists"):
        found("0.txt")


def test_a_list_may_be_named_more_than_once(tree):
    root = tree("p.png")
    (root / "a.txt").write_text("b.txt\nb.txt")
    (root / "b.txt").write_text("p.png")
    assert found("a.txt", "b.txt") == ["p.png"] * 3


def test_a_folder_that_is_not_there_has_no_pictures_for_a_base(tmp_path):
    with pytest.raises(OSEDiffError, match="expected pictures in"):
        load_pictures(tmp_path / "absent")

"""Several inputs, patterns, names by a template, pipes, and results that say how they were made."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core.commands.cli import main
from osediff_core.pictures.blocks import Notes
from osediff_core.pictures.images import write_image
from osediff_core.pictures.results import made
from osediff_core.tools.describe import describe

ONE = ("--scale", "1")


def test_files_folders_and_patterns_go_to_one_folder(osediff, picture, tree):
    for name in ("a.jpg", "b.png", "photos/c.webp", "photos/deep/d.png", "more/e.bmp", "more/f.bmp"):
        picture(name)
    status, said = osediff("a.jpg", "b.png", "photos/", "more/*.bmp", "a.jpg", "--to", "new/out", *ONE)
    assert status == 0
    assert tree("new/out") == ["a.png", "b.png", "e.png", "f.png", "photos/c.png"]
    assert "1 folder inside; --recursive looks into folders (of photos)" in said
    status, said = osediff("a.jpg", "photos", "--to", "new/out", "--recursive", *ONE)
    assert status == 0
    assert "1 restored, 2 there already" in said
    assert "photos/deep/d.png" in tree("new/out")
    assert osediff("photos", "--to", "flat", *ONE)[0] == 0  # as `osediff photos flat`
    assert tree("flat") == ["c.png"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["a.jpg", "none.jpg", "--to", "out"], "there is no file or folder none.jpg"),
        (["*.gif", "--to", "out"], "no picture matches *.gif"),
        (["a.jpg", "in/a.jpg", "--to", "out"], "--name"),
        (["in", "x/in", "--to", "out", "--name", "{folder}_{stem}"], "or restore them into two folders"),
        (["a.jpg", "in", "--to", "a.jpg"], "a.jpg is a file"),
        (["a.jpg", "in/a.jpg", "--to", ".", "--format", "jpg"], "--name"),
        (["a.jpg", "--to", ".", "--format", "same"], "would be written over"),
        (["inspekt", "x.pkl"], "did you mean osediff inspect?"),
        (["a.jpg", "b.png", "--spill", "none"], "there is no folder none to spill to"),
        (["a.jpg", "b.webp", "--scale", "3000"], "WEBP holds at most 16383 pixels"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_loaded(
    picture, tmp_path, monkeypatch, capsys, argv, says
):
    monkeypatch.chdir(tmp_path)
    picture("a.jpg")
    picture("in/a.jpg")
    picture("x/in/a.jpg")
    monkeypatch.setattr("osediff_core.OSEDiff.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    assert main(argv) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["a.png"], "expected IN and OUT, got a.png"),
        (["a", "b", "c"], "name a folder of results by --to"),
        (["a", "b", "--colour", "none"], "did you mean --color?"),
        (["a", "b", "--name", "{stem}/x"], "leave out the folder"),
        (["a", "b", "--name", "{nme}"], "{nme} is none of them"),
        (["a", "b", "--name", "{stem"], "no template"),
        (["a", "b", "--name", "{stem.x}"], "{stem.x} is none of them"),
        (["a", "b", "--name", "{stem:{x}}"], "{stem:{x}} is none of them"),
        (["a", "b", "--name", "{stem:>99999999999999}"], "is none of them"),
        (["a", "b", "--name", "{stem!r}"], "{stem!r} is none of them"),
        (["a", "b", "--name", "{stem}\x1b[31m"], "makes no name of a file"),
        (["a", "b", "--overwrite=no"], "--overwrite"),
        (["a", "--to", "-"], "- is stdout, for one picture"),
        (["", "b"], "is empty"),
        (["a", "b", "--prompt", "caf\udce9"], "bytes that are not UTF-8"),
        (["a", "--to", ""], "is empty"),
    ],
)
def test_mistakes_of_the_options_say_what_was_meant(capsys, argv, says):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_a_template_names_results_and_the_format_may_be_the_inputs(osediff, picture, tree):
    for name in ("in/a.jpg", "in/a.png", "in/b.gif"):
        picture(name)
    name = "{folder}_{stem}_x{scale}"
    assert osediff("in", "out", *ONE, "--format", "same", "--name", name)[0] == 0
    assert tree("out") == ["in_a_x1.jpg", "in_a_x1.png", "in_b_x1.png"]
    assert osediff("in/a.jpg", "one/", "--cover", "20x12", "--name", "{stem} {scale} {detail} {ext}")[0] == 0
    assert tree("one") == ["a cover-20x12 1 jpg.png"]
    assert osediff("in", "plain", *ONE, "--name", "x")[0] == 0
    assert tree("plain") == ["x.png", "x_2.png", "x_3.png"]


def test_a_picture_goes_from_stdin_to_stdout(model, picture, tmp_path, monkeypatch, capsysbinary):
    picture("a.png")
    monkeypatch.chdir(tmp_path)
    content = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr("osediff_core.OSEDiff.from_pretrained", lambda *_, **__: model)
    given = io.TextIOWrapper(io.BytesIO(content))
    monkeypatch.setattr(sys, "stdin", given)
    capsysbinary.readouterr()
    assert main(["-", "-", "--format", "jpg"]) == 0
    out, err = capsysbinary.readouterr()
    with Image.open(io.BytesIO(out)) as image:
        assert (image.format, image.size) == ("JPEG", (40, 32))
    assert err == b""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main(["-", "-", "--plan"]) == 0
    assert capsysbinary.readouterr().out.startswith(b"stdin: 40 x 32 ")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"no picture")))
    assert main(["-", "-"]) == 1
    out, err = capsysbinary.readouterr()
    assert out == b""
    assert b": stdin is not a picture" in err  # and not the file that stands in for it
    given = io.TextIOWrapper(io.BytesIO(content))
    monkeypatch.setattr(given, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", given)
    assert main(["-", "b.png"]) == 1
    assert b"terminal" in capsysbinary.readouterr().err
    monkeypatch.setattr(sys, "stdin", None)  # as `osediff - b.png <&-`
    assert main(["-", "b.png"]) == 1
    assert b"closed" in capsysbinary.readouterr().err


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif", "bmp"])
def test_a_result_says_how_it_was_made(osediff, picture, tmp_path, ending):
    picture("a.png")
    assert osediff("a.png", f"b.{ending}", *ONE, "--prompt", "ein schöner Hund", "--detail", "0.5")[0] == 0
    note = made(tmp_path / f"b.{ending}")
    if ending == "bmp":
        assert note is None
        return
    told = json.loads(note)
    assert told["program"].startswith("osediff ")
    shown = describe(tmp_path / f"b.{ending}")
    assert shown.kind == "a restored picture"
    assert shown.facts["prompt"] == "ein schöner Hund"
    assert (told["size"], told["color"], told["detail"]) == ("scale 1", "adain", 0.5)
    assert told["prompt"] == "ein schöner Hund"
    assert len(told["base"]) == len(told["weights"]) == 16
    assert told["base"] != told["weights"]
    with Image.open(tmp_path / f"b.{ending}") as image:
        assert np.asarray(image).shape == (8, 10, 3)
    assert osediff("a.png", f"bare.{ending}", *ONE, "--strip")[0] == 0
    assert made(tmp_path / f"bare.{ending}") is None
    # What is restored again says how it was made the second time.
    assert osediff(f"b.{ending}", f"c.{ending}", *ONE)[0] == 0
    assert "prompt" not in json.loads(made(tmp_path / f"c.{ending}"))


def test_a_long_prompt_does_not_cost_a_photograph_its_exif(osediff, picture, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    Image.new("RGB", (10, 8), "grey").save(tmp_path / "a.jpg", exif=exif)
    options = (*ONE, "--prompt", "\N{BLACK SQUARE} " * 40_000)  # each letter is six in ASCII
    assert osediff("a.jpg", "b.jpg", *options)[0] == 0
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.getexif()[0x010F] == "a camera"
    assert len(json.loads(made(tmp_path / "b.jpg"))["prompt"]) < 1100
    assert "nothing to do" in osediff("a.jpg", "b.jpg", *options, "--overwrite", "changed")[1]


def test_only_what_was_made_otherwise_is_made_again(osediff, picture, tmp_path):
    for name in ("in/a.png", "in/b.png", "in/c.png"):
        picture(name)
    assert osediff("in", "out", *ONE)[0] == 0
    assert osediff("in/b.png", "out/b.png", *ONE, "--overwrite", "--detail", "0.5")[0] == 0
    times = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in ("a.png", "b.png", "c.png")}
    status, said = osediff("in", "out", *ONE)
    assert status == 0
    assert "1 of the results that are there was made with detail 0.5, not 1.0: " in said
    status, said = osediff("in", "out", *ONE, "--overwrite", "changed")
    assert "1 restored, 2 there already, 0 failed" in said or "1 restored, 2 there already" in said
    new = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in times}
    assert {name for name in times if new[name] != times[name]} == {"b.png"}
    assert osediff("--overwrite", "changed", "in/a.png", "out/a.png", *ONE)[0] == 0
    assert (tmp_path / "out/a.png").stat().st_mtime_ns == new["a.png"]
    status, said = osediff("in/a.png", "out/a.png", *ONE, "--prompt", "a dog", "--color", "none")
    assert status == 2
    assert "out/a.png exists, made with color adain, not none; prompt none, not a dog; name another" in said
    assert osediff("--overwrite", "in/a.png", "out/a.png", *ONE)[0] == 0  # no value of the option
    assert (tmp_path / "out/a.png").stat().st_mtime_ns != new["a.png"]


@pytest.mark.parametrize(
    "noted", [{"size": "A" * 60_000}, {"K" * 60_000: 1}, {f"k{i}": i for i in range(3000)}]
)
def test_what_a_file_notes_of_its_making_is_told_in_bounds(osediff, picture, tmp_path, noted):
    picture("in/a.png")
    (tmp_path / "out").mkdir()
    result = torch.zeros(1, 3, 8, 10, dtype=torch.uint8)
    write_image(tmp_path / "out/a.png", result, notes=Notes(made=json.dumps({"program": "any", **noted})))
    status, said = osediff("in", "out", *ONE)
    assert status == 0
    assert "1 of the results that are there was made with" in said
    assert len(said) < 1200

"""`osediff verify` with outputs whose origin is known: the demo's own, and others."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core.base.load import DEMO_WEIGHTS
from osediff_core.commands.cli import main
from osediff_core.errors import OSEDiffError
from osediff_core.tools.verify import find_pairs, psnr

FIGURES = ("result", "no_prompt", "spread", "vae", "colour")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Inputs named as published, and what the demo makes of them."""
    place = tmp_path_factory.mktemp("published")
    (place / "in").mkdir()
    y, x = np.mgrid[0:16, 0:24]
    for name, turn in (("a_lr", 0.0), ("b_lr", 1.5)):
        planes = [127 + 90 * np.sin(x / 3 + turn) * np.cos(y / 4 + k) for k in range(3)]
        Image.fromarray(np.stack(planes, -1).astype(np.uint8)).save(place / "in" / f"{name}.png")
    assert main([str(place / "in"), str(place / "out"), "--quiet", "--device", "cpu"]) == 0
    for path in (place / "out").iterdir():
        path.rename(path.with_name(path.name.replace("_lr", "_published")))
    return place


def run(capsys, *argv):
    status = main(["verify", *map(str, argv), "--device", "cpu"])
    out, err = capsys.readouterr()
    return status, out, err


def figures(report, name):
    """The numbers of one line of the table."""
    (line,) = [line for line in report.splitlines() if re.match(rf"{name} +[-\d.inf]+ ", line)]
    return dict(zip(FIGURES, map(float, line.split()[1:]), strict=True))


def test_the_demos_own_outputs_agree_and_others_do_not(capsys, published, tmp_path):
    status, report, err = run(capsys, published / "in", published / "out")
    assert status == 0, err
    for name in ("a", "b", "mean"):
        assert figures(report, name)["result"] == math.inf
        assert figures(report, name)["colour"] < 1
        assert 15 < figures(report, name)["spread"] < math.inf
    (tmp_path / "swapped").mkdir()
    for name, other in (("a", "b"), ("b", "a")):
        content = (published / "out" / f"{other}_published.png").read_bytes()
        (tmp_path / "swapped" / f"{name}.png").write_bytes(content)
    status, report, _ = run(capsys, published / "in", tmp_path / "swapped")
    assert status == 0
    assert figures(report, "mean")["result"] < 20


def test_a_small_change_shows(capsys, published, tmp_path):
    image = np.asarray(Image.open(published / "out" / "a_published.png")).astype(int)
    (tmp_path / "brighter").mkdir()
    Image.fromarray((image + 4).clip(0, 255).astype(np.uint8)).save(tmp_path / "brighter" / "a.png")
    _, report, _ = run(capsys, published / "in", tmp_path / "brighter")
    row = figures(report, "a")
    assert row["result"] == pytest.approx(20 * math.log10(255 / 4), abs=0.05)
    assert 3 < row["colour"] < 5


def test_the_report_names_files_hashes_and_versions_and_no_folder(capsys, published):
    _, report, _ = run(capsys, published / "in", published / "out", "--most", "1")
    assert hashlib.sha256(DEMO_WEIGHTS.read_bytes()).hexdigest() in report
    assert f"torch {torch.__version__}" in report
    assert "device cpu" in report
    assert "unet/diffusion_pytorch_model.safetensors" in report
    assert str(published) not in report
    assert str(Path.home()) not in report
    assert report.startswith("```\n")
    assert report.endswith("```\n")
    assert not re.search(r"^b ", report, re.M)


def test_other_weights_and_a_prompt_are_heard(capsys, published, micro_options):
    _, report, _ = run(capsys, published / "in", published / "out", *micro_options[:-2], "--most", "1")
    assert figures(report, "a")["result"] < 30
    assert "osediff.pkl" in report
    assert "not a file that is known" in report
    options = [*micro_options[:-2], "--most", "1", "--prompt", "a cat on a mat"]
    _, prompted, _ = run(capsys, published / "in", published / "out", *options)
    assert figures(prompted, "a")["no_prompt"] == figures(report, "a")["result"]
    assert figures(prompted, "a")["result"] != figures(report, "a")["result"]


def test_a_taggers_prompts_are_in_the_report(capsys, published, micro_options, tiny_tagger):
    options = [*micro_options[:-2], "--most", "1", "--tagger", tiny_tagger]
    _, report, _ = run(capsys, published / "in", published / "out", *options)
    _, plain, _ = run(capsys, published / "in", published / "out", *micro_options[:-2], "--most", "1")
    assert re.search(r"^prompt of a: '.*, ,'$", report, re.M)
    assert hashlib.sha256(Path(tiny_tagger).read_bytes()).hexdigest() in report
    assert figures(report, "a")["no_prompt"] == figures(plain, "a")["result"]


def test_sizes_that_differ_and_broken_files_are_named(capsys, published, tmp_path):
    (tmp_path / "out").mkdir()
    Image.open(published / "out" / "a_published.png").crop((0, 0, 88, 64)).save(tmp_path / "out" / "a.png")
    (tmp_path / "out" / "b.png").write_bytes(b"no picture")
    status, report, err = run(capsys, published / "in", tmp_path / "out")
    assert (status, report) == (1, "")
    assert "a.png is 88x64, but a_lr.png times 4 is 96x64" in err
    assert "b.png is not a picture" in err


def test_pairs(tmp_path):
    for name in ("x_lr.png", "x_published.png", "x_hr.png", "y.png"):
        (tmp_path / name).touch()
    (pair,) = find_pairs(tmp_path, tmp_path)
    assert (pair.name, pair.lq.name, pair.published.name) == ("x", "x_lr.png", "x_published.png")
    (tmp_path / "other").mkdir()
    with pytest.raises(OSEDiffError, match="no picture of"):
        find_pairs(tmp_path, tmp_path / "other")
    with pytest.raises(OSEDiffError, match="there is no folder"):
        find_pairs(tmp_path, tmp_path / "nowhere")


def test_psnr():
    a = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    assert psnr(a, a) == math.inf
    assert psnr(a, a + 255) == 0
    assert psnr(a, a + 1) == pytest.approx(48.1308, abs=1e-4)

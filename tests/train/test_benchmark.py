"""`python -m train.benchmark` on small sets made here, with the micro base."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from osediff_core import OSEDiff, restore
from osediff_core.color import to_levels
from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import read_image, write_image
from tests.self_contained import asks_for
from train import benchmark
from train.evaluation import restoring
from train.evaluation.comparison import ComparisonConfig
from train.evaluation.data_sets import SetConfig, open_set
from train.evaluation.fidelity import gaussian_blur
from train.evaluation.methods import SETTINGS, MethodConfig, bicubic, build_method, fingerprint
from train.evaluation.metric_table import PAPER
from train.evaluation.published import published_rows, read_published
from train.programs.tables import from_table, parse_toml, read_config

CPU = torch.device("cpu")
BEGIN = "<!-- train.benchmark: written by a program -->"


@pytest.fixture
def place(tmp_path):
    """The set RealSR of two smooth pictures, 8x12 to 32x48, in the layout it is published in."""
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path / "RealSRVal_crop128"
    for name in ("a", "b"):
        hq = torch.nn.functional.interpolate(
            torch.rand(1, 3, 4, 6, generator=generator), size=(32, 48), mode="bicubic"
        ).clamp(0, 1)
        for part, picture in (("test_HR", hq), ("test_LR", torch.nn.functional.avg_pool2d(hq, 4))):
            (folder / part).mkdir(parents=True, exist_ok=True)
            write_image(folder / part / f"{name}.png", picture)
    return tmp_path


class Here:
    """Does the work of a process in this one: starting one takes seconds."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def submit(self, work, *arguments):
        future = Future()
        future.set_result(work(*arguments))
        return future


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(restoring, "ProcessPoolExecutor", Here)


def config_file(place, micro, extra=""):
    path = place / "compare.toml"
    path.write_text(
        f"""
out = '{place / "out"}'
metrics = ["psnr", "ssim", "niqe"]
reference = "bicubic"
[sets.RealSR]
folder = '{place}'
[methods.bicubic]
kind = "bicubic"
[methods."best blur"]
kind = "blur"
[methods."OSEDiff, micro"]
kind = "ours"
base = '{micro / "tiny_sd"}'
weights = '{micro / "osediff.pkl"}'
dtype = "float32"
[methods.originals]
kind = "folder"
outputs = "{{folder}}/test_HR"
{extra}"""
    )
    return path


def test_methods_by_sets_beside_the_published_figures(place, micro, capsys, here):
    page = place / "evidence.md"
    path = config_file(place, micro)
    assert benchmark.main([str(path), "--doc", str(page)]) == 0
    out = capsys.readouterr().out
    measured, published = out.split("## Published")
    assert "run to run 0 levels apart at most" in measured
    assert out.split("\n\n")[0] == "## Measured"
    for name in ("bicubic", "best blur", "OSEDiff, micro", "originals"):
        assert f"| RealSR | {name} |" in measured
    assert "| RealSR | originals | 80.00 | 1.0000 | – | – | – |" in measured
    assert "StableSR" not in measured
    assert "| RealSR | StableSR-s200 | 24.70 | 0.7085 | 5.9122 |" in published
    assert "bicubic" not in published
    assert "NIQE: not computed; needs pyiqa" in measured
    text = page.read_text()
    assert "NIQE: not computed; needs pyiqa" in text
    assert "pip install pyiqa" in out
    assert "pip install" not in text  # nor a folder of this machine
    assert text.count(BEGIN) == 1
    model = OSEDiff.from_pretrained(micro / "tiny_sd", micro / "osediff.pkl", device="cpu", dtype="float32")
    lq = read_image(place / "RealSRVal_crop128/test_LR/a.png").rgb
    written = read_image(place / "out/realsr/osediff-micro/a.png").rgb
    assert torch.equal(written, to_levels(restore(model, lq, scale=4)))


def test_a_page_to_look_at_has_every_picture_by_every_method(place, micro, capsys, here):
    page = place / "page.html"
    path = config_file(place, micro)
    path.write_text(path.read_text().replace('"niqe"]', '"niqe", "drift"]'))
    assert benchmark.main([str(path), "--report", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert asks_for(text) == []
    found = {case["name"]: case for case in cases_of(text)}
    assert set(found) == {"a", "b"}
    labels = ["LQ", "bicubic", "best blur", "OSEDiff, micro", "originals", "HQ"]
    for case in found.values():
        assert [view["label"] for view in case["views"]] == labels
        assert case["views"][case["main"]]["label"] == "OSEDiff, micro"
        assert [view["difference"] == "" for view in case["views"]] == [False] * 5 + [True]
        assert case["views"][4]["note"].startswith("PSNR-Y, dB 80.00; SSIM-Y 1.0000; colour drift, levels ")
        assert case["views"][1]["note"].endswith("; colour drift, levels 0.00")
    rows = re.findall(r"<td><bdi>(worst 1|best 1)</bdi></td>(.*?)</tr>", text)
    assert [name for name, _ in rows] == ["worst 1", "best 1"]
    gaps = [float(re.findall(r"<bdi>([+-][\d.]+)</bdi>", rest)[0]) for _, rest in rows]
    assert gaps[0] <= gaps[1]  # our method minus bicubic in PSNR
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("| RealSR | OSEDiff, micro |"))
    assert "".join(f"<td><bdi>{cell.strip()}</bdi></td>" for cell in row.split("|")[1:-1]) in text
    measured, published = text.split('id="s2">Published')
    assert "RealSR, as published" in published  # the radar of NIQE, PSNR and SSIM
    assert "StableSR" not in measured
    assert "needs pyiqa" in measured
    assert str(place) not in text  # nor pip install, which is for who is at this machine
    assert "pip install" not in text


def test_a_page_without_a_reference_or_metrics_of_pictures(place, micro, capsys, here):
    path = place / "compare.toml"
    path.write_text(
        f"out = '{place / 'out'}'\nmetrics = ['niqe']\n[sets.RealSR]\nfolder = '{place}'\n"
        "[methods.HQ]\nkind = 'folder'\noutputs = '{folder}/test_HR'\n"
    )
    assert benchmark.main([str(path), "--report", str(place / "page.html")]) == 0
    (first, second) = cases_of((place / "page.html").read_text(encoding="utf-8"))
    assert [view["label"] for view in first["views"]] == ["LQ", "bicubic", "HQ", "HQ"]
    assert (first["name"], second["name"]) == ("a", "b")


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_restored(place, micro, capsys):
    path = config_file(place, micro)
    assert benchmark.main([str(path), "--report", str(place / "page.md")]) == 2
    assert "to end in .html" in capsys.readouterr().err
    assert not (place / "out").exists()


def cases_of(text):
    return [
        json.loads(one) for one in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)
    ]


def test_what_is_there_is_not_restored_again(place, micro, capsys, here, monkeypatch):
    path = config_file(place, micro)
    assert benchmark.main([str(path)]) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(restoring, "ProcessPoolExecutor", lambda *_, **__: pytest.fail("restored again"))
    assert benchmark.main([str(path)]) == 0
    assert capsys.readouterr().out == first


def test_a_stopped_restoration_goes_on(place):
    data = open_set("RealSR", SetConfig(folder=str(place)))
    method, out = MethodConfig("bicubic"), place / "out"
    restoring.restore_set(method, data, out, "cpu", 1)
    whole = (out / "b.png").read_bytes()
    stamp = (out / "a.png").stat().st_mtime_ns
    (out / "b.png").unlink()
    run = restoring.restore_set(method, data, out, "cpu", 1)
    assert (out / "b.png").read_bytes() == whole
    assert (out / "a.png").stat().st_mtime_ns == stamp
    assert set(run.seconds) == {"a", "b"}
    assert run.typical > 0
    assert run.peak > 1 << 20 or not importlib.util.find_spec("resource")


def test_a_changed_input_is_restored_again(place, here):
    data = open_set("RealSR", SetConfig(folder=str(place)))
    method, out = MethodConfig("bicubic"), place / "out"
    restoring.restore_set(method, data, out, "cpu", 1)
    before = (out / "a.png").read_bytes()
    write_image(data.pairs[0].sr, torch.full((1, 3, 8, 12), 0.25))
    restoring.restore_set(method, data, out, "cpu", 1)
    assert (out / "a.png").read_bytes() != before


def test_pictures_of_other_settings_are_not_taken_for_these(place, here):
    data = open_set("RealSR", SetConfig(folder=str(place)))
    restoring.restore_set(MethodConfig("bicubic"), data, place / "out", "cpu", 1)
    with pytest.raises(OSEDiffError, match="kind differ"):
        restoring.restore_set(MethodConfig("blur"), data, place / "out", "cpu", 1)
    (place / "out" / restoring.RUN).write_text("{}")
    with pytest.raises(OSEDiffError, match="begin anew"):
        restoring.read_run(place / "out", MethodConfig("bicubic"))


def test_files_are_known_by_what_they_hold(place):
    file = place / "net.pth"
    file.write_bytes(b"one")
    config = MethodConfig("spandrel", file=str(file))
    first = fingerprint(config)
    file.write_bytes(b"two")
    assert fingerprint(config) != first
    assert fingerprint(MethodConfig("ours")) != ""  # the bundled demo, which an update may change
    file.unlink()
    with pytest.raises(OSEDiffError, match=r"net\.pth cannot be read"):
        fingerprint(config)


def test_the_best_blur_is_the_best(place):
    """The low-quality pictures are blocks here, so that some blur gains and a wide one loses."""
    data = open_set("RealSR", SetConfig(folder=str(place)))
    generator = torch.Generator().manual_seed(1)
    for pair in data.pairs:
        lq = read_image(pair.sr).rgb / 255
        write_image(pair.sr, (lq + 0.1 * torch.randn(lq.shape, generator=generator)).clamp(0, 1))
    method, what = build_method(MethodConfig("blur"), data, CPU)
    width = float(what.split()[2])
    assert 0.5 < width < 8
    lq = read_image(data.pairs[0].sr).rgb
    assert torch.equal(method(lq, 4), gaussian_blur(bicubic(lq, 4), width))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "bicubic", "file": "x"}, "kind bicubic has no `file`"),
        ({"kind": "ours", "outputs": "x"}, "kind ours has no `outputs`"),
        ({"kind": "spandrel"}, "needs `file`"),
        ({"kind": "folder"}, "needs `outputs`"),
        ({"kind": "ours", "base": "x"}, "both `base` and `weights`"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(wrong, said):
    with pytest.raises(OSEDiffError, match=said):
        MethodConfig(**wrong)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("[methods.x]\nkind = 'magic'", "must be one of"),
        ("[methods.x]\nkind = 'bicubic'\ncolour = 'none'", "unknown key `methods.x.colour`"),
        ("[methods.BICUBIC]\nkind = 'blur'", "differ too little"),
        ("[methods]\nx = 3", "`methods.x` must be a section"),
        ("[sets.DRealSR]\nfolder = 'nowhere'", "Iceclear/StableSR-TestSets"),
        ("[methods.theirs]\nkind = 'folder'\noutputs = '{folder}/{set}'", "theirs|expected a picture"),
    ],
)
def test_a_wrong_configuration_is_refused_before_anything_is_restored(place, micro, capsys, extra, said):
    assert benchmark.main([str(config_file(place, micro, extra))]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (place / "out").exists()


@pytest.mark.parametrize("text", ["", "[sets.a]\nfolder = 'x'", "[methods.m]\nkind = 'blur'", "sets = 3"])
def test_an_empty_comparison_is_refused(tmp_path, text):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(OSEDiffError, match=r"test sets|must hold sections"):
        read_config(ComparisonConfig, tmp_path / "c.toml")


def test_other_networks_need_spandrel_and_it_is_named(place, monkeypatch):
    data = open_set("RealSR", SetConfig(folder=str(place)))
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(OSEDiffError, match=r"\[compare\]"):
        build_method(MethodConfig("spandrel", file="x.pth"), data, CPU)


def test_every_system_of_the_paper_has_its_figures():
    rows, source = read_published()
    assert "Tables 1 and 7" in source
    table1 = {
        "StableSR-s200",
        "DiffBIR-s50",
        "SeeSR-s50",
        "PASD-s20",
        "ResShift-s15",
        "SinSR-s1",
        "OSEDiff-s1",
    }
    table7 = {"BSRGAN", "Real-ESRGAN", "LDL", "FeMaSR"}
    for data_set in ("DIV2K-Val", "DRealSR", "RealSR"):
        found = published_rows(data_set)
        assert {row.method for row in found} == table1 | table7
        assert found[-1].method == "OSEDiff-s1"
    assert len(rows) == 33
    assert all(tuple(row.figures) == PAPER for row in rows)
    figures = {(row.data_set, row.method): row.figures for row in rows}
    assert figures["RealSR", "OSEDiff-s1"]["psnr"] == 25.15
    assert figures["DRealSR", "DiffBIR-s50"]["lpips"] == 0.4557
    assert figures["DIV2K-Val", "FeMaSR"]["clipiqa"] == 0.5997
    assert published_rows("mine") == []


@pytest.mark.skipif(importlib.util.find_spec("spandrel") is None, reason="needs the compare extra")
def test_a_network_runs_through_spandrel(place, here):
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    network = ESRGAN(num_filters=8, num_blocks=1, scale=4)
    torch.save(network.state_dict(), place / "net.pth")
    data = open_set("RealSR", SetConfig(folder=str(place)))
    config = MethodConfig("spandrel", file=str(place / "net.pth"))
    method, what = build_method(config, data, CPU)
    assert "ESRGAN" in what
    lq = read_image(data.pairs[0].sr).rgb
    with torch.no_grad():
        expected = network.eval()(lq.float() / 255).clamp(0, 1)
    torch.testing.assert_close(method(lq, 4), expected)
    with pytest.raises(OSEDiffError, match="for 2x"):
        method(lq, 2)
    run = restoring.restore_set(config, data, place / "out", "cpu", 1)
    assert set(run.seconds) == {"a", "b"}
    (place / "net.pth").write_bytes(b"nothing")
    with pytest.raises(OSEDiffError, match="no network that spandrel"):
        build_method(config, data, CPU)


def test_ours_is_restored_with_its_settings(place, micro, monkeypatch):
    """The tagger sees the input and the scale, and what it says is the prompt."""
    given = {}

    def restored(model, lq, **settings):
        given.update(settings)
        return bicubic(lq, settings["scale"])

    def tagger(file, device):
        return lambda lq, text, scale: [f"{file} {tuple(lq.shape)} {text} {scale}"]

    monkeypatch.setattr("osediff_core.pipeline.run.restore", restored)
    monkeypatch.setattr("osediff_core.prompts.tagger.Tagger.from_pretrained", tagger)
    data = open_set("RealSR", SetConfig(folder=str(place)))
    files = {"base": str(micro / "tiny_sd"), "weights": str(micro / "osediff.pkl")}
    config = MethodConfig("ours", **files, prompt="sharp", tagger="t.safetensors", color="none", detail=1.5)
    method, what = build_method(config, data, CPU)
    lq = read_image(data.pairs[0].sr).rgb
    method(lq, 4)
    told = ["t.safetensors (1, 3, 8, 12) sharp 4.0"]
    assert given == {"scale": 4, "prompt": told, "color": "none", "detail": 1.5}
    assert what == "osediff.pkl"
    plain, _ = build_method(MethodConfig("ours", **files, prompt="sharp"), data, CPU)
    plain(lq, 4)
    assert given == {"scale": 4, "prompt": ["sharp"], "color": "adain", "detail": 1.0}


def test_the_example_of_the_docs_is_read():
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```toml\n(.*?)^```", page, re.S | re.M)
    config = from_table(ComparisonConfig, parse_toml(example))
    assert {method.kind for method in config.methods.values()} == set(SETTINGS)


def test_what_a_killed_process_had_done_is_kept(place, here, monkeypatch):
    class Killed(Here):
        def submit(self, *_):
            raise BrokenProcessPool

    data = open_set("RealSR", SetConfig(folder=str(place)))
    restoring.restore_set(MethodConfig("bicubic"), data, place / "out", "cpu", 1)
    kept = json.loads((place / "out" / restoring.RUN).read_text())
    (place / "out" / "b.png").unlink()
    monkeypatch.setattr(restoring, "ProcessPoolExecutor", Killed)
    with pytest.raises(OSEDiffError, match="want of memory"):
        restoring.restore_set(MethodConfig("bicubic"), data, place / "out", "cpu", 1)
    assert json.loads((place / "out" / restoring.RUN).read_text()) == kept

"""`python -m train.evaluate`: values, files, going on, what is missing."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
import types

import pytest
import torch

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import read_image, write_image
from osediff_core.resize import resize_bicubic
from tests.self_contained import asks_for
from train import evaluate
from train.evaluation import measures, scores
from train.evaluation.artifacts import colour_drift
from train.evaluation.fidelity import psnr_y, ssim_y
from train.evaluation.metric_table import choose_metrics, licence_of, read_metrics, why_missing
from train.evaluation.pairs import pair_up
from train.evaluation.recognition import edits
from train.evaluation.scores import Measuring, score

NAMES = ("a", "b", "c")


@pytest.fixture
def folders(tmp_path):
    """Three smooth originals, their quarters, and two methods: `good` is off by less than `bad`."""
    generator = torch.Generator().manual_seed(0)
    for folder in ("hq", "lq", "good", "bad"):
        (tmp_path / folder).mkdir()
    for name in NAMES:
        coarse = torch.rand(1, 3, 4, 5, generator=generator)
        hq = torch.nn.functional.interpolate(coarse, size=(32, 40), mode="bicubic").clamp(0, 1)
        noise = torch.randn(hq.shape, generator=generator)
        write_image(tmp_path / "hq" / f"{name}.png", hq)
        write_image(tmp_path / "lq" / f"{name}.png", torch.nn.functional.avg_pool2d(hq, 4))
        write_image(tmp_path / "good" / f"{name}.png", (hq + 0.02 * noise).clamp(0, 1))
        write_image(tmp_path / "bad" / f"{name}.png", (hq + 0.10 * noise).clamp(0, 1))
    return tmp_path


def run(*arguments):
    return evaluate.main([str(a) for a in arguments])


def test_values_are_those_of_the_measures(folders, capsys):
    store, table = folders / "v.json", folders / "v.csv"
    metrics = ("--metrics", "psnr", "ssim")
    assert run(folders / "good", folders / "hq", *metrics, "--json", store, "--csv", table) == 0
    kept = json.loads(store.read_text())
    rows = {row["picture"]: row for row in csv.DictReader(table.open())}
    for name in NAMES:
        sr, hq = (read_image(folders / f / f"{name}.png").rgb / 255 for f in ("good", "hq"))
        assert kept["values"]["psnr"][name] == psnr_y(sr, hq).item() == float(rows[name]["psnr"])
        assert kept["values"]["ssim"][name] == ssim_y(sr, hq).item() == float(rows[name]["ssim"])
    mean = sum(kept["values"]["psnr"].values()) / 3
    assert kept["summary"]["psnr"]["mean"] == pytest.approx(mean)
    assert kept["summary"]["psnr"]["low"] <= mean <= kept["summary"]["psnr"]["high"]
    assert f"{mean:.2f} [" in capsys.readouterr().out


def test_methods_are_compared_picture_by_picture(folders, capsys):
    places = (folders / "good", folders / "hq", "--against", folders / "bad", "--lq", folders / "lq")
    assert run(*places, "--metrics", "psnr", "--csv", folders / "v.csv") == 0
    out = capsys.readouterr().out
    assert "good minus bad" in out
    assert "good minus bicubic of LQ" in out
    assert "**+1" in out  # some 14 dB better than bad, beyond chance
    assert "good: psnr,bad: psnr,bicubic of LQ: psnr" in (folders / "v.csv").read_text()
    assert run(folders / "bad", folders / "hq", "--against", folders / "good", "--metrics", "psnr") == 0
    assert "**-1" in capsys.readouterr().out


def test_single_files_are_one_picture_whatever_they_are_called(folders, capsys):
    """As docs/training.md compares a photograph before and after."""
    good, bad, hq, lq = (
        folders / "good/a.png",
        folders / "bad/b.png",
        folders / "hq/a.png",
        folders / "lq/c.png",
    )
    for place in ((good, "--against", bad, "--lq", lq), (good, hq, "--against", bad, "--lq", lq)):
        assert run(*place, "--metrics", "drift", "--report", folders / "page.html") == 0
        assert "a.png minus b.png" in capsys.readouterr().out


def test_methods_on_other_pictures_are_not_compared(folders, capsys):
    (folders / "bad" / "c.png").rename(folders / "bad" / "d.png")
    assert run(folders / "good", folders / "hq", "--against", folders / "bad") == 2
    assert "no d" in capsys.readouterr().err
    assert run(folders / "good", "--against", folders / "bad", "--metrics", "niqe") == 2
    assert "differ in c, d" in capsys.readouterr().err


def test_sizes_are_refused_before_anything_is_measured(folders, capsys, monkeypatch):
    for name in ("b", "c"):
        write_image(folders / "good" / f"{name}.png", torch.zeros(1, 3, 32, 41))
    monkeypatch.setattr(scores, "measure_pair", lambda *_: pytest.fail("measured"))
    assert run(folders / "good", folders / "hq", "--metrics", "psnr") == 2
    said = capsys.readouterr().err
    assert "b.png" in said
    assert "41x32" in said
    assert "1 other pairs" in said


def test_a_stopped_run_goes_on_with_what_is_missing(folders, monkeypatch):
    pairs, metrics = pair_up(folders / "good", folders / "hq"), choose_metrics(["psnr"])
    store, measured = folders / "v.json", []

    def stopping(pair, names, device):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(pair.name)
        return measures.measure_pair(pair, names, device)

    monkeypatch.setattr(scores, "measure_pair", stopping)
    with pytest.raises(KeyboardInterrupt):
        score(pairs, metrics, Measuring(), store)
    assert measured == ["a", "b"]
    assert set(json.loads(store.read_text())["values"]["psnr"]) == {"a", "b"}
    measured.clear()
    done = score(pairs, metrics, Measuring(), store)
    assert measured == ["c"]
    monkeypatch.undo()
    assert done == score(pairs, metrics, Measuring(), None)


def test_what_changed_is_measured_again(folders, monkeypatch):
    pairs, metrics = pair_up(folders / "good", folders / "hq"), choose_metrics(["psnr"])
    store = folders / "v.json"
    before = score(pairs, metrics, Measuring(), store)
    write_image(folders / "good" / "b.png", read_image(folders / "bad" / "b.png").rgb)
    after = score(pairs, metrics, Measuring(), store)
    assert after.values["psnr"]["b"] < before.values["psnr"]["b"] - 5
    assert after.values["psnr"]["a"] == before.values["psnr"]["a"]
    kept = json.loads(store.read_text())
    kept["values"]["psnr"]["a"] = 99.0
    store.write_text(json.dumps(kept))
    assert (
        score(pairs, metrics, Measuring(), store).values["psnr"]["a"] == 99.0
    )  # it really is taken from there
    kept["made_with"]["psnr"] = "another version"
    store.write_text(json.dumps(kept))
    assert score(pairs, metrics, Measuring(), store).values["psnr"]["a"] == before.values["psnr"]["a"]


def test_what_is_not_asked_for_now_is_kept(folders, capsys):
    """Also what was measured on a machine with more libraries: LPIPS is none here."""
    store, table = folders / "v.json", folders / "v.csv"
    places = (folders / "good", folders / "hq", "--json", store, "--csv", table)
    assert run(*places, "--metrics", "psnr", "ssim") == 0
    kept = json.loads(store.read_text())
    kept["values"]["musiq"] = dict.fromkeys(NAMES, 70.0)
    kept["values"]["niqe"] = {"a": 5.0}
    kept["made_with"] |= {"musiq": "elsewhere", "niqe": "elsewhere"}
    store.write_text(json.dumps(kept))
    assert run(*places, "--metrics", "psnr") == 0
    after = json.loads(store.read_text())
    assert after["values"] == kept["values"]
    assert after["made_with"] == kept["made_with"]
    assert table.read_text().startswith("picture,psnr\n")
    capsys.readouterr()
    assert run(*places, "--metrics", "musiq", "niqe") == 0
    out = capsys.readouterr().out
    assert "| MUSIQ ↑ | 70.00 [70.00, 70.00] | 3 |" in out
    assert "MUSIQ: not computed" not in out
    assert "NIQE: not computed" in out  # of one picture alone there is no mean to show
    assert "5.0000" not in out
    write_image(folders / "good" / "a.png", torch.zeros(1, 3, 32, 40))
    assert run(*places, "--metrics", "musiq") == 0
    assert "MUSIQ: not computed" in capsys.readouterr().out


def test_a_file_of_somebody_else_is_not_written_over(folders, capsys):
    store = folders / "notes.json"
    for text in ("hello", "[1, 2]", '{"values": 3}'):
        store.write_text(text)
        assert run(folders / "good", folders / "hq", "--metrics", "psnr", "--json", store) == 2
        assert "not written by this program" in capsys.readouterr().err
        assert store.read_text() == text


@pytest.mark.slow
def test_several_workers_give_the_same_values(folders):
    pairs, metrics = pair_up(folders / "good", folders / "hq"), choose_metrics(["psnr", "ssim"])
    assert (
        score(pairs, metrics, Measuring(workers=2), None).values
        == score(pairs, metrics, Measuring(), None).values
    )


def test_a_picture_a_metric_cannot_take_is_counted_and_said(folders, capsys, caplog):
    for folder in ("good", "hq"):
        write_image(folders / folder / "b.png", torch.zeros(1, 3, 8, 40))  # lower than SSIM's window
    assert run(folders / "good", folders / "hq", "--metrics", "psnr", "ssim") == 0
    out = capsys.readouterr().out
    assert "2 (1 without a value)" in out
    assert "ssim has no value for b" in caplog.text


def test_what_is_missing_is_named_and_the_rest_computed(folders, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("train.evaluation.metric_table.version_of", installed("torchmetrics", "torchvision"))
    assert run(folders / "good", folders / "hq") == 0
    out = capsys.readouterr().out
    assert "PSNR-Y" in out
    assert f'curl -L --create-dirs -o "{tmp_path}/hub/checkpoints/alexnet-owt-7be5be79.pth" https://' in out
    assert "FID: not computed; needs torch_fidelity: pip install -e .[evaluate]" in out
    assert "forbids commercial use" in out.replace("\n", " ")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    assert why_missing(read_metrics()["lpips"]) is None


def installed(*names):
    return lambda library: "1.0" if library in names else "absent"


def test_a_library_that_cannot_be_set_up_is_named(folders, capsys, pyiqa):
    pyiqa.create_metric = lambda name, device: 1 / 0
    assert run(folders / "good", folders / "hq", "--metrics", "psnr", "musiq") == 0
    out = capsys.readouterr().out
    assert "MUSIQ: not computed; musiq could not be set up: division by zero" in out
    assert "PSNR-Y" in out


@pytest.fixture
def pyiqa(monkeypatch, tmp_path):
    """A stand-in for the library that is non-commercial, with the licence text that it has itself."""
    about = tmp_path / "site" / "pyiqa-9.8.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: pyiqa\nVersion: 9.8\nLicense-Expression: X-NC\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    module = types.ModuleType("pyiqa")
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    measures._built.cache_clear()
    yield module
    measures._built.cache_clear()


def test_a_non_commercial_library_runs_where_it_is_and_its_licence_is_printed(folders, capsys, pyiqa):
    asked = []

    def create(name, device):
        asked.append(name)
        return lambda image: image.mean() + torch.rand(())

    pyiqa.create_metric = create
    store = folders / "v.json"
    assert run(folders / "good", "--metrics", "maniqa", "--json", store) == 0
    assert asked == ["maniqa-pipal"]
    assert "pyiqa 9.8: X-NC" in capsys.readouterr().out
    first = json.loads(store.read_text())["values"]["maniqa"]
    store.unlink()
    measures._built.cache_clear()
    assert run(folders / "good", "--metrics", "maniqa", "--json", store) == 0
    assert json.loads(store.read_text())["values"]["maniqa"] == first  # what it draws is seeded
    mean = read_image(folders / "good" / "a.png").rgb.float().mean() / 255
    torch.manual_seed(measures.SEED)
    assert first["a"] == pytest.approx((mean + torch.rand(())).item(), abs=1e-5)


def test_without_originals_only_metrics_of_pictures_are_computed(folders, capsys):
    assert run(folders / "good", "--metrics", "psnr", "niqe") == 0
    assert "PSNR-Y, dB: not computed; compares with originals" in capsys.readouterr().out


def test_inputs_are_what_drift_and_shift_are_measured_from(folders, capsys):
    store, table = folders / "v.json", folders / "v.csv"
    places = (folders / "good", "--lq", folders / "lq", "--json", store, "--csv", table)
    assert run(*places, "--metrics", "drift", "shift", "noise") == 0
    out = capsys.readouterr().out
    assert "bicubic" not in out  # of which size it should be only HQ would say
    assert "noise on flat fields, levels: not computed; compares with originals" in out
    values = {row["picture"]: float(row["drift"]) for row in csv.DictReader(table.open())}
    sr, lq = (read_image(folders / f / "a.png").rgb for f in ("good", "lq"))
    enlarged = resize_bicubic(lq, (32, 40)) / 255
    assert values["a"] == pytest.approx(colour_drift(sr / 255, enlarged).item())
    assert run(folders / "good", folders / "hq", "--metrics", "drift") == 0
    assert "colour drift, levels: not computed; compares with inputs" in capsys.readouterr().out
    assert run(folders / "good", folders / "hq", "--lq", folders / "lq", "--metrics", "drift") == 0
    own = re.search(r"\| colour drift, levels ↓ \| ([\d.]+) \[.*?\| ([\d.]+) \[", capsys.readouterr().out)
    assert own is not None
    assert float(own[1]) > 0
    assert float(own[2]) == 0  # of the input's own enlargement


@pytest.mark.parametrize(
    ("places", "labels"),
    [
        (("hq", "--lq", "lq"), ["LQ", "bicubic", "good", "HQ"]),
        (("hq", "--against", "bad"), ["good", "bad", "HQ"]),
        (("--lq", "lq"), ["LQ", "bicubic", "good"]),
        (("--against", "bad"), ["good", "bad"]),
    ],
)
def test_a_page_shows_each_picture_beside_what_there_is(folders, capsys, places, labels):
    page = folders / "page.html"
    given = [one if one.startswith("--") else folders / one for one in places]
    metrics = ["psnr"] if "hq" in places else ["drift"]
    assert run(folders / "good", *given, "--metrics", *metrics, "--report", page) == 0
    text = page.read_text(encoding="utf-8")
    assert asks_for(text) == []
    found = [
        json.loads(one) for one in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)
    ]
    assert {one["name"] for one in found} == set(NAMES)
    for one in found:
        assert [view["label"] for view in one["views"]] == labels
        assert one["views"][one["main"]]["label"] == "good"
        assert [view["difference"] == "" for view in one["views"]].index(True) == one["comparedWith"]
    row = capsys.readouterr().out.splitlines()[2]
    assert all(
        f"<td><bdi>{cell.strip()}</bdi></td>" in text for cell in row.split("|")[1:-1] if "**" not in cell
    )


def test_the_worst_picture_comes_first(folders):
    page = folders / "page.html"
    write_image(folders / "good" / "b.png", torch.zeros(1, 3, 32, 40))
    assert run(folders / "good", folders / "hq", "--metrics", "psnr", "--report", page) == 0
    first = re.search(
        r'<script type="application/json"[^>]*>(.*?)</script>', page.read_text(encoding="utf-8")
    )
    assert json.loads(first[1])["name"] == "b"


def test_another_input_is_measured_anew_and_the_rest_kept(folders, monkeypatch):
    places = (folders / "good", folders / "hq", "--lq", folders / "lq", "--json", folders / "v.json")
    assert run(*places, "--metrics", "psnr", "drift") == 0
    before = json.loads((folders / "v.json").read_text())["values"]
    write_image(folders / "lq" / "b.png", torch.zeros(1, 3, 8, 10))
    asked, real = [], measures.measure_pair

    def noted(pair, names, device):
        asked.append((pair.name, pair.enlarge, names))
        return real(pair, names, device)

    monkeypatch.setattr(scores, "measure_pair", noted)
    assert run(*places, "--metrics", "psnr", "drift") == 0
    assert asked == [("b", False, ("drift",)), ("b", True, ("psnr", "drift"))]
    after = json.loads((folders / "v.json").read_text())["values"]
    assert after["psnr"] == before["psnr"]
    assert {name for name in NAMES if after["drift"][name] != before["drift"][name]} == {"b"}


@pytest.mark.parametrize("size", [(8, 12), (6, 10)])
def test_an_input_of_another_shape_is_refused_by_name(folders, capsys, size):
    write_image(folders / "lq" / "b.png", torch.zeros(1, 3, *size))
    assert run(folders / "good", "--lq", folders / "lq", "--metrics", "drift") == 2
    said = capsys.readouterr().err
    assert "b.png" in said
    assert f"got {size[1]}x{size[0]}" in said


def test_text_that_is_read_otherwise_is_counted(folders, capsys, monkeypatch):
    """With a stand-in that reads a picture's brightness; the library itself: test_metric_libraries."""
    read = {0: ("HELLO", "world"), 128: ("HELL0", "wor"), 255: None}

    class Engine:
        def __init__(self, params):
            assert params

        def __call__(self, pixels):
            assert (pixels.dtype, pixels.shape) == ("uint8", (32, 40, 3))
            assert pixels.flags.c_contiguous
            return types.SimpleNamespace(txts=read[int(pixels[0, 0, 0])])

    monkeypatch.setitem(sys.modules, "rapidocr", types.SimpleNamespace(RapidOCR=Engine))
    monkeypatch.setattr("train.evaluation.metric_table.version_of", installed("rapidocr", "onnxruntime"))
    measures._built.cache_clear()
    for name, (ours, theirs) in {"a": (128, 0), "b": (0, 0), "c": (0, 255)}.items():
        for folder, level in (("good", ours), ("hq", theirs)):
            write_image(folders / folder / f"{name}.png", torch.full((1, 3, 32, 40), level / 255))
    store = folders / "v.json"
    assert run(folders / "good", folders / "hq", "--metrics", "text", "--json", store) == 0
    values = json.loads(store.read_text())["values"]["text"]
    assert values == {"a": pytest.approx(3 / len("HELLO world")), "b": 0, "c": None}
    assert "2 (1 without a value)" in capsys.readouterr().out
    measures._built.cache_clear()


@pytest.mark.parametrize(
    ("a", "b", "count"),
    [("", "", 0), ("abc", "abc", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3)],
)
def test_edits_are_counted(a, b, count):
    assert edits(a, b) == count


@pytest.mark.parametrize(
    "wrong",
    [
        ["SR", "HQ", "--metrics", "vmaf"],
        [],
        ["SR", "--lq", "LQ"],
        ["SR", "HQ", "--workers", "0"],
        ["SR", "--report", "x.html"],
    ],
)
def test_what_cannot_be_meant_is_refused(wrong, capsys):
    try:
        status = run(*wrong)
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert capsys.readouterr().err


def test_the_table_of_metrics_is_whole(capsys):
    table = read_metrics()
    single = {name for name, metric in table.items() if metric.of != "set"}
    assert set(measures.BUILDERS) == single
    assert set(measures.SET_BUILDERS) == set(table) - single
    for metric in table.values():
        assert metric.setting
        assert licence_of(metric)
        assert all(w.url.endswith(w.file) and w.url.startswith("https://") for w in metric.weights)
    assert run("--list") == 0
    out = capsys.readouterr().out
    assert all(f"| {name} |" in out for name in table)


def test_not_a_number_survives_its_file(folders, monkeypatch):
    pairs, metrics = pair_up(folders / "good", folders / "hq"), choose_metrics(["psnr"])
    monkeypatch.setitem(measures._built(("psnr",), "cpu"), "psnr", lambda sr, hq: math.nan)
    score(pairs, metrics, Measuring(), folders / "v.json")
    assert json.loads((folders / "v.json").read_text())["values"]["psnr"] == dict.fromkeys(NAMES)
    monkeypatch.undo()
    assert all(
        map(math.isnan, score(pairs, metrics, Measuring(), folders / "v.json").values["psnr"].values())
    )


def test_what_was_importable_still_is():
    from train.demo.evaluation import measure as moved
    from train.evaluate import SCALE, Pair, Row, bicubic, degraded_pairs, measure, quantise, real_pairs

    assert measure is moved
    assert SCALE == 4
    assert all((Pair, Row, bicubic, degraded_pairs, quantise, real_pairs))


def test_measures_need_originals_where_they_compare():
    with pytest.raises(OSEDiffError, match="give HQ"):
        measures.build_measure("psnr", torch.device("cpu"))(torch.zeros(1, 3, 8, 8), None)

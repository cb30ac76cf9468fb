"""Charts of a comparison: what is drawn where, and what names may hold."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from train.evaluation.charts import CENTRE, RADIUS, WORST, quality_against_time, radar
from train.evaluation.metric_table import choose_metrics, read_metrics

METRICS = choose_metrics(["psnr", "ssim", "lpips"])
BEST = {"psnr": 30.0, "ssim": 0.9, "lpips": 0.1}
WORSE = {"psnr": 20.0, "ssim": 0.5, "lpips": 0.3}
BETWEEN = {"psnr": 25.0, "ssim": 0.7, "lpips": 0.2}


def radii(figure):
    """How far from the middle each corner of each polygon is, of 1."""
    found = re.findall(r'points="([^"]+)"', figure.svg)
    points = [[tuple(map(float, p.split(","))) for p in one.split()] for one in found]
    return [[math.dist(p, CENTRE) / RADIUS for p in one] for one in points]


def test_the_radar_has_the_best_outside_whichever_way_is_better():
    figure = radar("t", METRICS, {"best": BEST, "worst": WORSE, "between": BETWEEN})
    best, worst, between = radii(figure)
    assert best == pytest.approx([1] * 3, abs=0.01)
    assert worst == pytest.approx([WORST] * 3, abs=0.01)
    assert between == pytest.approx([(1 + WORST) / 2] * 3, abs=0.01)
    assert "0.1000 / 0.3000" in figure.svg  # of LPIPS, where less is better


def test_a_radar_has_the_axes_that_all_methods_have():
    lacking = {"psnr": 22.0, "ssim": 0.6}
    assert radar("t", METRICS, {"a": BEST, "b": lacking}) is None
    assert radar("t", METRICS, {"a": BEST, "b": {**lacking, "lpips": math.nan}}) is None
    assert radar("t", METRICS, {}) is None
    (alone,) = radii(radar("t", METRICS, {"a": BEST}))
    assert alone == pytest.approx([1] * 3, abs=0.01)


def dots(figure):
    found = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', figure.svg)
    return [(float(x), float(y)) for x, y in found]


@pytest.mark.parametrize(("name", "good", "bad"), [("psnr", 30.0, 20.0), ("lpips", 0.1, 0.3)])
def test_better_is_upwards_and_faster_to_the_left(name, good, bad):
    figure = quality_against_time("t", METRICS[name], {"fast": (0.001, good), "slow": (10.0, bad)})
    fast, slow = dots(figure)
    assert fast[0] < slow[0]
    assert fast[1] < slow[1]
    assert "logarithmic" in figure.caption
    assert quality_against_time("t", METRICS[name], {"fast": (1.0, good)}) is None


def test_every_metrics_name_fits_beside_the_radar():
    """Wherever its axis is; a letter of a name is about 7 wide, one of the smaller figures 6."""
    names = [*read_metrics()]
    for turned in range(0, len(names), 2):
        order = names[turned:] + names[:turned]
        both = {method: dict.fromkeys(order, float(method == "a")) for method in ("a", "b")}
        drawing = ElementTree.fromstring(radar("t", choose_metrics(order), both).svg)
        width, height = map(int, drawing.get("viewBox").split()[2:])
        texts = [one for one in drawing.iter("text") if one.get("text-anchor")]
        assert len(texts) > 2 * len(names)
        for one in texts:
            wide = (6 if one.get("class") == "soft" else 7) * len(one.text)
            left = float(one.get("x")) - {"start": 0, "middle": 0.5, "end": 1}[one.get("text-anchor")] * wide
            assert left >= 0, one.text
            assert left + wide <= width, one.text
            assert 8 <= float(one.get("y")) < height


def test_methods_alike_in_everything_are_drawn():
    same = quality_against_time("t", METRICS["psnr"], {"a": (1.0, 20.0), "b": (1.0, 20.0), "c": (0.0, 20.0)})
    assert len(dots(same)) == 3
    assert "nan" not in same.svg


def test_charts_are_whole_whatever_methods_are_called():
    name = "</text></svg><script>\"'&amp;"
    methods = {f"{name}{i}": BEST for i in range(11)}
    for figure in (
        radar(name, METRICS, methods),
        quality_against_time(name, METRICS["psnr"], {n: (i + 1.0, 2.0) for i, n in enumerate(methods)}),
    ):
        drawing = ElementTree.fromstring(figure.svg)
        assert [one.text for one in drawing.iter("text")][-11:] == list(methods)
        assert {one.tag for one in drawing.iter()} <= {"svg", "text", "line", "polygon", "path", "circle"}

"""The page that a training leaves: curves, samples by step, settings; and the file of its numbers."""

from __future__ import annotations

import json
import logging
import math
import re
from dataclasses import replace

import pytest
import torch

from tests.self_contained import asks_for
from train.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from train.watch.curves import FILE, POINTS, Curves, draw
from train.watch.report import PAGE, TrainingLog
from train.watch.run_page import changed_settings, run_page, spread


def points_of(figure):
    (found,) = re.findall(r'<polyline class="c0 curve" points="([^"]+)"', figure.svg)
    return [tuple(map(float, point.split(","))) for point in found.split()]


def test_a_curve_goes_from_left_to_right_and_up_with_its_values():
    figure = draw("loss/data", [(1, 3.0), (2, 1.0), (4, 2.0)])
    (x1, y1), (x2, y2), (x4, y4) = points_of(figure)
    assert x2 - x1 == pytest.approx((x4 - x1) / 3, abs=0.1)
    assert y1 < y4 < y2  # down is small
    assert ">3<" in figure.svg
    assert ">1<" in figure.svg
    assert "last 2<" in figure.svg
    assert draw("loss/data", [(1, 3.0)]) is None


def test_a_long_curve_is_thinned_by_means_and_a_steep_one_logarithmic():
    figure = draw("n", [(step, float(step % 2)) for step in range(10 * POINTS)])
    assert len(points_of(figure)) == POINTS
    assert "mean of 10" in figure.caption
    assert {y for _, y in points_of(figure)} == {points_of(figure)[0][1]}  # the means are all one half
    (_, a), (_, b), (_, c) = points_of(draw("n", [(1, 1.0), (2, 100.0), (3, 10_000.0)]))
    assert a - b == pytest.approx(b - c, abs=0.1)


def test_numbers_go_on_after_a_resume_and_a_cut_line_is_left_out(tmp_path):
    curves = Curves(tmp_path)
    for step in (1, 2, 3, 4):
        curves.add(step, {"loss/data": step / 10, "loss/nan": math.nan})
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 5, "loss/da')
    again = Curves(tmp_path, 3)
    assert again.of("loss/data") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert again.of("loss/nan") == []
    assert "NaN" not in (tmp_path / FILE).read_text()  # which is no JSON
    again.add(4, {"loss/data": 9.0})
    assert Curves(tmp_path, 4).of("loss/data")[-1] == (4, 9.0)
    assert Curves(tmp_path).entries == []  # a run that begins anew


def test_the_page_shows_samples_from_the_first_step_to_the_last(tmp_path, caplog):
    config = TrainConfig(
        model=ModelConfig(base="/home/someone/secret/base"),
        data=DataConfig(sources=("/home/someone/photographs",)),
        run=RunConfig(out=str(tmp_path / "run"), steps=20, tracker="none", log_every=1),
    )
    report = TrainingLog(config)
    levels = torch.linspace(0.1, 0.9, 9)
    for step in range(1, 10):
        report.losses(step, {"loss/data": torch.tensor(1.0 / step)}, 1e-4)
        lq, sr, hq = (torch.full((2, 3, 16, 16), float(v)) for v in (0.0, levels[step - 1], 1.0))
        sr[1] *= 0.5
        report.samples(step, lq, sr, hq)
        report.measures(step, {"psnr": 20.0 + step})
    report.close()
    assert caplog.records == []
    text = (tmp_path / "run" / PAGE).read_text(encoding="utf-8")
    assert asks_for(text) == []
    assert '<section aria-labelledby="look">' in text
    assert "secret" not in text
    assert str(tmp_path) not in text
    found = [
        json.loads(one) for one in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)
    ]
    assert [one["name"] for one in found] == ["picture 1", "picture 2"]
    for one in found:
        assert [view["label"] for view in one["views"]] == [
            "LQ", "step 1", "step 3", "step 4", "step 6", "step 7", "step 9", "HQ"
        ]  # fmt: skip
        assert (one["width"], one["height"]) == (16, 16)
    assert "<td><bdi>29.0000</bdi></td>" in text  # PSNR at the last step
    assert text.count("<polyline") == 3  # PSNR, loss, learning rate
    shown = run_page(config, report.curves).cases[1].views
    assert [view.part for view in shown[:2]] == [(16, 0, 16, 16), (16, 16, 16, 16)]
    assert shown[-1].part == (16, 32, 16, 16)


def test_a_run_without_samples_has_a_page_of_curves(tmp_path):
    report = TrainingLog(TrainConfig(run=RunConfig(out=str(tmp_path), tracker="none", log_every=1)))
    for step in (1, 2):
        report.losses(step, {"loss/data": torch.tensor(1.0)}, 1e-4)
    report.close()
    text = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert text.count("<polyline") == 2
    assert asks_for(text) == []
    assert '<section aria-labelledby="look" hidden>' in text  # no heading over nothing


def test_a_page_that_cannot_be_written_stops_no_training(tmp_path, caplog):
    (tmp_path / PAGE).mkdir()
    report = TrainingLog(TrainConfig(run=RunConfig(out=str(tmp_path), tracker="none")))
    report.measures(1, {"psnr": 20.0})
    report.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert Curves(tmp_path, 1).of("validation/psnr") == [(1, 20.0)]


def test_sheets_that_are_gone_or_of_fewer_pictures_are_no_error(tmp_path):
    config = TrainConfig(run=RunConfig(out=str(tmp_path), tracker="none"))
    report = TrainingLog(config)
    for step, count in ((1, 3), (2, 3), (3, 2), (4, 3)):
        report.samples(step, *(torch.rand(count, 3, 8, 8) for _ in range(3)))
        report.measures(step, {"psnr": 20.0})
    (tmp_path / "samples" / "0000002.png").unlink()
    cases = run_page(config, report.curves).cases
    assert len(cases) == 2
    assert [view.label for view in cases[0].views] == ["LQ", "step 1", "step 3", "step 4", "HQ"]


def test_stages_are_spread_with_both_ends():
    assert spread([1, 2], 6) == [1, 2]
    assert spread(list(range(101)), 6) == [0, 20, 40, 60, 80, 100]


def test_settings_are_those_that_were_changed():
    assert changed_settings(TrainConfig()) == {}
    changed = replace(TrainConfig(), run=RunConfig(steps=7, out="a/b/c"))
    assert changed_settings(changed) == {"run.steps": "7", "run.out": "c"}

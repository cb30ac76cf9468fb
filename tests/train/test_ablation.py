"""The runner of Table 3, on the tiny base and for a step or two a row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from osediff_core.errors import OSEDiffError
from train import ablation
from train.ablation import (
    CONFIG,
    OURS,
    ROWS,
    AblationResult,
    differences,
    page,
    row_config,
    run_all,
    shortened,
    table,
)
from train.config import TrainConfig, read_config, to_toml
from train.demo.evaluation import HeldOutPair
from train.evaluation.seeds import beyond_chance, spread

MEASURED = {"psnr": 20.0, "ssim": 0.5, "sharpness": 0.3}


@pytest.fixture
def shared(micro, pictures, tmp_path):
    config = read_config(TrainConfig, CONFIG)
    return replace(
        config,
        model=replace(config.model, base=str(micro / "tiny_sd"), rank_unet=2, rank_vae=2),
        data=replace(config.data, sources=(str(pictures),), crop=32),
        run=replace(config.run, out=str(tmp_path / "ablation"), steps=1, batch_size=1),
    )


@pytest.fixture
def pairs():
    hq = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return [HeldOutPair("a", hq, (hq[:, :, ::4, ::4] * 255).byte())]


@pytest.mark.slow
def test_rows_are_trained_measured_and_not_trained_twice(shared, pairs, monkeypatch):
    # Two steps: in the first the head on the critic's features has no opinion, and changes nothing.
    shared = replace(shared, run=replace(shared.run, steps=2))
    results = run_all(shared, 1, pairs)
    assert [r.row for r in results] == list(ROWS)
    assert len({r.psnr for r in results}) == len(ROWS)  # each is a network of its own
    assert all(r.seconds > 0 for r in results)
    stored = json.loads((Path(shared.run.out) / "results.json").read_text())
    assert [AblationResult(**item) for item in stored] == results
    monkeypatch.setattr(ablation, "train", lambda config: pytest.fail("trained again"))
    assert run_all(shared, 1, pairs) == results


def test_rows_change_the_loss_alone(shared):
    made = [row_config(shared, row, 3) for row in ROWS]
    vsd = shared.loss.lambda_vsd
    assert [c.loss.lambda_vsd for c in made] == [0, 0, vsd, vsd, 0, pytest.approx(0.7 * vsd), vsd]
    assert [c.loss.lambda_gan > 0 for c in made] == [False, True, *[False] * 5]
    assert [c.loss.vsd_space for c in made] == ["latent", "latent", "image", *["latent"] * 4]
    assert len({c.run.out for c in made}) == len(ROWS)
    assert all(replace(c, loss=shared.loss, run=shared.run) == shared for c in made)
    assert {c.run.seed for c in made} == {3}


@pytest.mark.parametrize(
    ("row", "name"),
    [("VSD and target score matching", "tsm"), ("VSD and a GAN on the critic's features", "diffusion_gan")],
)
def test_rows_beyond_the_paper_are_the_configurations_of_their_names(row, name):
    shared = read_config(TrainConfig, CONFIG)
    shipped = read_config(TrainConfig, CONFIG.with_name(f"{name}.toml"))
    assert row_config(shared, row, 0).loss == shipped.loss
    assert shipped.loss != shared.loss


def test_the_standard_error_is_that_of_the_mean():
    assert spread([1.0, 2.0, 3.0]) == "2.000 ± 0.577"
    assert spread([1.5]) == "1.500"


def test_what_three_seeds_show_must_be_more_than_four_standard_errors():
    assert not beyond_chance([1.0, 2.0, 3.0])  # 3.5 standard errors, and with three values that is chance
    assert beyond_chance([1.4, 2.0, 2.6])  # 5.8
    assert not beyond_chance([1.0])
    assert beyond_chance([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])


def test_another_length_keeps_the_shape_of_the_learning_rate(shared):
    whole = read_config(TrainConfig, CONFIG)
    assert whole.optim.decay_steps == whole.run.steps
    short = shortened(whole, 7)
    assert (short.run.steps, short.optim.decay_steps) == (7, 7)
    assert shortened(whole, None) == whole
    constant = replace(whole, optim=replace(whole.optim, decay_steps=0))
    assert shortened(constant, 7).optim.decay_steps == 0


def test_the_page_says_what_was_done(shared, pairs):
    text = page(shared, 3, pairs, "TABLES", "0123456789abcdef")
    said = ("--steps 1 --seeds 3", "TABLES", "4.3 standard errors", "`0123456789ab`", "on 1 held-out")
    assert [words for words in said if words not in text] == []


def test_differences_are_taken_seed_by_seed():
    results = [
        AblationResult(row, seed, "", psnr=10.0 * seed + number, ssim=0, sharpness=0, seconds=1)
        for seed in range(3)
        for number, row in enumerate(ROWS)
    ]
    compared = differences(results)
    assert "| w/o VSD loss | **-3.000 ± 0.000** | 0.000 ± 0.000 |" in compared
    assert "| target score matching | **1.000 ± 0.000** | 0.000 ± 0.000 |" in compared
    assert f"| {OURS} |" not in compared
    text = table(results, MEASURED)
    assert "| w/o VSD loss | 10.000 ± 5.774 |" in text
    assert "| bicubic | 20.000 | 0.500 | 0.300 | – |" in text


def test_a_run_that_was_interrupted_is_not_measured_as_if_it_were_done(shared, pairs, monkeypatch):
    longer = replace(shared, run=replace(shared.run, steps=3))
    whole = ablation.train
    monkeypatch.setattr(ablation, "train", lambda config: whole(stopped_after_one_step(config)))
    with pytest.raises(OSEDiffError, match="stopped before"):
        run_all(longer, 1, pairs)
    assert not (Path(shared.run.out) / "results.json").exists()


def stopped_after_one_step(config):
    """What a signal leaves: the checkpoint of the step that it came in."""
    return replace(config, run=replace(config.run, steps=1))


def test_a_page_is_written_only_where_one_is_named(shared, pairs, monkeypatch, tmp_path, capsys):
    settings = tmp_path / "config.toml"
    settings.write_text(to_toml(shared))
    monkeypatch.setattr(
        ablation, "run_all", lambda *_: [AblationResult("data", 1, "", **MEASURED, seconds=1)]
    )
    monkeypatch.setattr(ablation, "heldout_crops", list)
    monkeypatch.setattr(ablation, "degraded_pairs", lambda *_, **__: pairs)
    monkeypatch.setattr(ablation, "table", lambda *_: "the table")
    monkeypatch.setattr(ablation, "differences", lambda *_: "the differences")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    doc = tmp_path / "docs" / "ablation.md"
    doc.write_text(f"<!-- {ablation.PART}: written by a program -->\nkept\n<!-- {ablation.PART}: end -->\n")
    assert ablation.main(["--config", str(settings)]) == 0
    assert "the table" in capsys.readouterr().out
    assert "kept" in doc.read_text()
    assert ablation.main(["--config", str(settings), "--doc", "docs/ablation.md"]) == 0
    assert "kept" not in doc.read_text()
    assert "the table" in doc.read_text()

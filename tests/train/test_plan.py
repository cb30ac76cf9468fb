"""What `--plan` says is what a run does, and it takes no step."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator

from train.__main__ import main
from train.config import to_toml
from train.data import build_dataset
from train.engine.dry_run import activation_bytes
from train.engine.loop import Trainer


@pytest.mark.slow
def test_the_plan_names_what_is_trained_and_takes_no_step(config, tmp_path, capsys):
    config = config(run={"steps": 7, "batch_size": 2, "accumulation": 3})
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert main([str(file), "--plan", "--run.keep_last", "2"]) == 0
    said = capsys.readouterr().out
    trainer = Trainer(config, build_dataset(config.data, config.degradation, 0), Accelerator(cpu=True))
    both = trainer.backbone.generator_parameters(), trainer.backbone.critic_parameters()
    in_all = sum(p.numel() for tensors in both for p in tensors.values())
    assert f"{in_all:,}  in all" in said
    rows = [int(n.replace(",", "")) for n in re.findall(r"trained +([\d,]+)", said)]
    assert (len(rows), sum(rows)) == (4, in_all)
    assert re.search(r"steps +7  of 6 crops \(2 x 1 processes x 3 rounds\)", said)
    assert re.search(r"crops +42  of 64 pixels", said)
    assert "2 kept" in said
    assert not Path(config.run.out).exists()


@pytest.mark.slow
def test_the_plan_says_what_lies_beneath_and_what_warms_up(config, micro, tmp_path, capsys):
    model = {"beneath": str(micro / "osediff.pkl"), "train_conv_in": False}
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config(model=model, loss={"critic_warmup": 1})))
    assert main([str(file), "--plan"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"beneath +.*osediff\.pkl, frozen", said)
    assert re.search(r"warm-up +1  of the steps train the critic alone", said)


def test_the_plan_refuses_what_the_run_would_refuse(config, tmp_path, capsys):
    config = config(model={"init_from": str(tmp_path / "none.pkl")})
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert main([str(file), "--plan"]) == 2
    assert "none.pkl" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["none", "all"])
def test_activations_grow_with_the_picture_and_shrink_when_recomputed(config, recompute):
    config = config(run={"recompute": recompute, "batch_size": 1})
    trainer = Trainer(config, build_dataset(config.data, config.degradation, 0), Accelerator(cpu=True))
    small, large = (activation_bytes(trainer.stepper, config, side) for side in (64, 128))
    assert 3 < large / small < 5
    assert all(p.grad is None for p in trainer.backbone.generator_parameters().values())
    doubled = replace(config, run=replace(config.run, batch_size=2))
    assert activation_bytes(trainer.stepper, doubled, 64) == pytest.approx(2 * small, rel=0.1)

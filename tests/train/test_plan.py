"""What `--plan` says is what a run does, and it takes no step."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from train.__main__ import main
from train.config import to_toml
from train.data import build_dataset
from train.engine.dry_run import dry_step, memory
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
    small, large = (dry_step(trainer, config, side).peak for side in (64, 128))
    assert 3 < large / small < 5
    assert all(p.grad is None for p in trainer.backbone.generator_parameters().values())
    doubled = replace(config, run=replace(config.run, batch_size=2))
    assert dry_step(trainer, doubled, 64).peak == pytest.approx(2 * small, rel=0.15)


CASES = {
    "VSD": {"run": {"batch_size": 2}},
    "VSD, all computed again": {"run": {"recompute": "all"}},
    "VSD, nothing computed again": {"run": {"recompute": "none"}},
    "VSD of pictures": {"loss": {"vsd_space": "image"}, "run": {"batch_size": 2}},
    "VSD of pictures, all again": {"loss": {"vsd_space": "image"}, "run": {"recompute": "all"}},
    "GAN": {"loss": {"lambda_vsd": 0.0, "lambda_gan": 0.1}},
    "TSM": {"loss": {"lambda_vsd": 0.0, "lambda_tsm": 1.0}},
    "GAN of features": {"loss": {"lambda_diffusion_gan": 1e-3}, "run": {"recompute": "all"}},
    "three rounds": {"run": {"accumulation": 3}, "optim": {"ema_decay": 0.9}},
    "LPIPS": {"loss": {"perceptual": "lpips", "lambda_vsd": 0.0}},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_planned_memory_is_within_15_percent_of_what_is_allocated(config, case, monkeypatch):
    if case == "LPIPS":
        pytest.importorskip("lpips")
        import torchvision

        build = torchvision.models.vgg16
        monkeypatch.setattr(torchvision.models, "vgg16", lambda pretrained: build(weights=None))
    sections = CASES[case]
    config = config(**{**sections, "run": {"batch_size": 1, "steps": 9} | sections.get("run", {})})
    trainer = Trainer(config, build_dataset(config.data, config.degradation, 0), Accelerator(cpu=True))
    planned = sum(memory(trainer).values())
    rounds = trainer.feed.rounds(0)
    trainer.stepper.step(next(rounds))  # the moments of AdamW come with it
    measured = standing_bytes(trainer) + allocated_by(trainer, next(rounds))
    assert planned == pytest.approx(measured, rel=0.15)


@pytest.mark.slow
def test_samples_and_prompt_networks_are_planned(config):
    """Eight pictures to show take more than a step of one, where everything is computed again."""
    config = config(run={"batch_size": 1, "recompute": "all", "sample_count": 8}, loss={"lambda_vsd": 0.0})
    trainer = Trainer(config, build_dataset(config.data, config.degradation, 0), Accelerator(cpu=True))
    trainer.feed.prompter.networks.append(torch.nn.Linear(100, 10, bias=False))
    planned = memory(trainer)
    assert planned["networks for prompts"] == 4000
    shown = replace(config, run=replace(config.run, sample_every=1))
    assert dry_step(trainer, shown, 64).peak > 1.5 * planned["activations, gradients, recompute all"]


def standing_bytes(trainer):
    """Bytes of networks and moments between steps."""
    from torch.utils._pytree import tree_leaves

    stepper, backbone = trainer.stepper, trainer.backbone
    networks = [backbone.model.unet, backbone.model.vae, *filter(None, [backbone.plain_encoder])]
    held = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    held += closure_tensors(trainer.validation.perceptual)
    for updater in (stepper.generator_optimizer, *(one.updater for one in stepper.opponents.values())):
        held += [*updater.parameters, *tree_leaves(list(updater.optimizer.state.values()))]
    if trainer.ema is not None:
        held += trainer.ema.values.values()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
    return sum(storages.values())


def closure_tensors(function):
    """Tensors of the networks that a function holds."""
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    networks = [cell for cell in cells if isinstance(cell, torch.nn.Module)]
    return [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]


def allocated_by(trainer, batches):
    """Most bytes at once that PyTorch's allocator gave out while a step was taken, as its profiler tells."""
    processor = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(profile_memory=True, activities=processor) as seen:
        trainer.stepper.step(batches)
    assert seen.profiler is not None
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(now))

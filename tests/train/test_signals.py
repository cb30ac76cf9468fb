"""What a run tells about itself: distances by timestep, norms by loss, validation, trackers."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import read_image
from train.data import build_dataset
from train.engine.loop import Trainer, train
from train.engine.setup import start_processes
from train.engine.validation import Validation
from train.evaluation.fidelity import psnr_y
from train.objectives.batch import Batch
from train.objectives.draws import draw
from train.watch.report import TrainingLog, gathered
from train.watch.trackers import build_tracker


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_run_reports_what_its_loss_does_not_say(config, tmp_path, pictures):
    loss = {"lambda_csd": 0.5, "lambda_gan": 0.1, "lambda_tone": 2.0}
    run = {"steps": 3, "log_every": 1, "sample_every": 3, "signals_every": 2, "tracker": "tensorboard"}
    made = config(
        loss=loss,
        run=run,
        data={"validation": (str(pictures / "2.png"),)},
        model={"prompt": "x"},
        optim={"ema_decay": 0.9},
    )
    made = replace(made, data=replace(made.data, sources=(str(pictures / "0.png"),)))
    train(made)
    out = Path(made.run.out)
    found = scalars(out)
    for name in ("data", "perceptual", "vsd", "csd", "gan", "tone"):
        assert [step for step, _ in found[f"norm/{name}"]] == [1, 3]
        assert all(value > 0 for _, value in found[f"norm/{name}"])
    for name in ("loss/critic", "loss/discriminator", "norm/critic", "norm/discriminator", "data/small"):
        assert len(found[name]) == 3
    assert sum(len(found.get(f"vsd/distance at t {t}", [])) for t in range(0, 1000, 200)) >= 3
    assert not [name for name in found if name.startswith(("sum/", "count/", "mean/"))]
    sheet = read_image(out / "samples" / "0000003.png").rgb.float() / 255
    _, sr, hq = sheet.split(64, dim=3)
    shown = psnr_y(*(torch.stack(part[0].split(64, dim=1)) for part in (sr, hq))).mean().item()
    assert abs(found["validation/psnr"][-1][1] - shown) < 0.05  # the sheet is rounded to 8 bit
    assert {"validation/ssim", "validation/gradient"} <= found.keys()
    assert found["critic/loss"] == found["loss/critic"]  # entries of one step each
    assert len(found["validation/step to average"]) == 2  # after the first step and the last


def test_the_step_is_compared_with_the_average_in_pictures(batch):
    as_it_is = SimpleNamespace(restored=lambda: (None, batch[0], None))
    assert Validation.agreement(as_it_is, batch[1]) == pytest.approx(psnr_y(*batch).mean().item())


def test_sums_and_counts_become_means():
    since = {
        "sum/a": [torch.tensor(3.0), torch.tensor(5.0)],
        "count/a": [torch.tensor(1.0), torch.tensor(3.0)],
        "sum/b": [torch.tensor(0.0)],
        "count/b": [torch.tensor(0.0)],
        "mean/c": [torch.tensor(1.0), torch.tensor(2.0)],
    }
    assert gathered(since) == {"a": 2.0, "c": 1.5}


def test_gradient_norms_leave_no_trace_and_add_up(config, batch):
    run = Trainer(
        config(), build_dataset(config().data, config().degradation, 0), start_processes(config().run)
    )
    example = Batch(*batch, draw(0, [0, 1], (4, 8, 8), run.config.loss, torch.device("cpu")))
    norms = run.stepper.gradient_norms(example)
    parameters = run.stepper.generator_optimizer.parameters
    assert all(p.grad is None for p in [*parameters, *run.stepper.opponents["critic"].updater.parameters])
    _, losses, _ = run.stepper.generator_losses(example)
    (run.stepper.objectives["data"].weight * losses["data"]).backward()
    whole = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
    torch.testing.assert_close(norms["norm/data"], whole)
    assert set(norms) == {"norm/data", "norm/perceptual", "norm/vsd"}


def test_entries_cover_the_steps_between_them(config):
    made = config(run={"log_every": 2, "steps": 4, "tracker": "tensorboard"})
    report = TrainingLog(made)
    for step, value in enumerate((1.0, 2.0, 4.0, 6.0), start=1):
        report.losses(step, {"mean/data/grey": torch.tensor(value), "loss/data": torch.tensor(value)}, 0.1)
    report.close()
    found = scalars(Path(made.run.out))
    assert found["data/grey"] == [(1, 1.0), (2, 2.0), (4, 5.0)]
    assert found["loss/data"] == [(1, 1.0), (2, 2.0), (4, 6.0)]


def test_weights_and_biases_where_it_is_installed(tmp_path, monkeypatch):
    if importlib.util.find_spec("wandb") is None:
        with pytest.raises(OSEDiffError, match="pip install wandb"):
            build_tracker("wandb", tmp_path, 0)
        return
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = build_tracker("wandb", tmp_path / "run", 0)
    tracker.numbers({"loss/data": 1.0}, 1)
    tracker.picture("LQ | SR | HQ", torch.rand(3, 8, 24), 1)
    tracker.close()
    assert list((tmp_path / "run").rglob("*.wandb"))

"""Runs of a few steps, from pictures in a folder to a checkpoint that the rest of the product reads."""

import json
import os
import shutil
import signal
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from benchmarks.random_base import write_vocabulary
from osediff_core import OSEDiff, OSEDiffError, restore
from osediff_core.base.load import load_base
from osediff_core.base.vocabulary import SIZE
from osediff_core.weights.checkpoint import read_checkpoint
from train.config import OptimConfig, TrainConfig, read_config
from train.data import build_dataset
from train.engine.loop import Trainer, train
from train.engine.setup import make_folder
from train.objectives.batch import Batch
from train.objectives.draws import draw
from train.objectives.objective import Objective
from train.optim.optimizers import Updater, rate_factor
from train.watch.report import contact_sheet

CPU = torch.device("cpu")
FAST = {"learning_rate": 1e-2}
TOKENS = "cond_stage_model.model.token_embedding.weight"


def trainer(config):
    dataset = build_dataset(config.data, config.degradation, config.run.seed)
    return Trainer(config, dataset, Accelerator(cpu=True))


def noise_for(config, *samples, seed=0):
    """Draw what these samples of 64 x 64 pixels need."""
    return draw(seed, samples, (4, 8, 8), config.loss, CPU)


def all_tensors(checkpoint):
    return {f"unet.{k}": t for k, t in checkpoint.unet.items()} | {
        f"vae.{k}": t for k, t in checkpoint.vae.items()
    }


def test_a_run_leaves_what_the_loader_reads(config, micro, batch):
    config = config(
        run={"steps": 3, "sample_every": 2, "checkpoint_every": 2, "tracker": "tensorboard"},
        model={"licence": "CC0-1.0"},
        optim=FAST,
    )
    out = Path(config.run.out)
    run = trainer(config)
    newest = run.run()
    assert newest == out / "osediff.safetensors"
    assert {p.name for p in out.glob("*.safetensors")} == {
        newest.name, "osediff_0000002.safetensors", "osediff_0000003.safetensors"
    }  # fmt: skip
    assert {p.name for p in (out / "samples").iterdir()} == {f"000000{n}.png" for n in (1, 2, 3)}
    assert len(list((out / "tensorboard").iterdir())) == 1
    metadata = read_checkpoint(newest).metadata
    assert (metadata["steps"], metadata["licence"], metadata["base"]) == ("3", "CC0-1.0", config.model.base)
    assert date.fromisoformat(metadata["date"]).year >= 2026

    model = OSEDiff.from_pretrained(config.model.base, newest, dtype="float32", device="cpu")
    prompt = model.encode_prompt([""])
    plain = OSEDiff.from_pretrained(config.model.base, dtype="float32", device="cpu")
    with torch.no_grad():
        expected, z = run.backbone.generate(batch[0], prompt, None)  # adapters beside the weights
        sr, z_folded = model(batch[0], prompt)  # adapters folded into them
        untrained, _ = plain(batch[0], prompt)
    torch.testing.assert_close(sr, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(z_folded, z, atol=1e-4, rtol=1e-4)
    assert (untrained - expected).abs().max() > 1e-3
    assert restore(model, batch[0][:1, :, :8, :8], scale=4).shape == (1, 3, 32, 32)


@pytest.mark.slow
def test_the_resolved_configuration_is_written_twice(config, tmp_path):
    config = config()
    newest = train(config)
    assert read_config(TrainConfig, Path(config.run.out) / "config.toml") == config
    copy = tmp_path / "copy.toml"
    copy.write_text(read_checkpoint(newest).metadata["config"])
    assert read_config(TrainConfig, copy) == config


def test_the_folder_of_another_run_is_kept(config):
    config = config(run={"steps": 1})
    first = read_checkpoint(train(config))
    with pytest.raises(OSEDiffError, match=r"run\.overwrite"):
        train(config)
    again = read_checkpoint(train(replace(config, run=replace(config.run, overwrite=True, seed=5))))
    assert not torch.equal(first.unet["conv_in.lora_A.weight"], again.unet["conv_in.lora_A.weight"])


def test_a_name_that_no_configuration_can_hold_is_a_sentence(config, tmp_path):
    with pytest.raises(OSEDiffError, match="not UTF-8"):
        make_folder(config(run={"out": str(tmp_path / "out"), "steps": 1}, data={"sources": ("a\udcff",)}))


def test_workers_do_not_change_the_result(config, tmp_path):
    runs = [
        config(run={"workers": workers, "out": str(tmp_path / str(workers)), "steps": 3}, optim=FAST)
        for workers in (0, 2)
    ]
    first, second = (all_tensors(read_checkpoint(train(run))) for run in runs)
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.mark.slow
def test_another_seed_changes_the_result(config, tmp_path):
    runs = [config(run={"seed": seed, "out": str(tmp_path / str(seed)), "steps": 1}) for seed in (1, 2)]
    first, second = (all_tensors(read_checkpoint(train(run))) for run in runs)
    assert not torch.equal(first["unet.conv_in.lora_A.weight"], second["unet.conv_in.lora_A.weight"])


@pytest.mark.parametrize("lambda_vsd", [0.0, 0.01])
def test_losses_fall_on_one_picture(config, batch, lambda_vsd):
    run = trainer(config(loss={"lambda_vsd": lambda_vsd}, optim=FAST))
    lq, hq = batch[0][:1], batch[0][:1].flip(-1)
    still = Batch(lq, hq, noise_for(run.config, 1))
    values = [run.stepper.step([still]) for _ in range(25)]
    assert values[-1]["loss/data"] < (0.8 if lambda_vsd else 0.6) * values[0]["loss/data"]
    if lambda_vsd:
        assert values[-1]["loss/critic"] < values[0]["loss/critic"]


def test_without_vsd_teacher_and_critic_cost_nothing(config, batch, monkeypatch):
    run = trainer(config(loss={"lambda_vsd": 0.0}))
    calls, forward = [], run.backbone.model.unet.forward
    monkeypatch.setattr(
        run.backbone.model.unet, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k)
    )
    values = run.stepper.step([Batch(*batch, noise_for(run.config, 0, 1))])
    assert len(calls) == 1
    assert run.backbone.critic_parameters() == {}
    assert not [name for name in values if "vsd" in name or "critic" in name]


@pytest.mark.parametrize(("posterior", "differs"), [("sample", True), ("mode", False)])
def test_the_posterior_is_drawn_only_where_asked_for(config, batch, posterior, differs):
    config = config(model={"posterior": posterior}, loss={"lambda_vsd": 0.0})
    draws = [noise_for(config, 0, 1, seed=seed) for seed in (1, 2)]
    losses = [trainer(config).stepper.step([Batch(*batch, d)])["loss/data"] for d in draws]
    assert (losses[0] != losses[1]) == differs


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGINT, 1),
        (signal.SIGTERM, 0),
        pytest.param(signal.SIGINT, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_run_with_a_checkpoint(config, monkeypatch, number, workers):
    config = config(run={"steps": 50, "workers": workers, "overwrite": True})
    step, handler = Trainer._one_step, signal.getsignal(number)

    def step_and_signal(self, *arguments):
        step(self, *arguments)
        if self.step == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Trainer, "_one_step", step_and_signal)
    assert read_checkpoint(train(config)).metadata["steps"] == "2"
    assert signal.getsignal(number) is handler


def test_losses_that_are_no_numbers_stop_the_run_and_change_nothing(config):
    run = trainer(config(run={"steps": 9}, optim={"max_skipped": 2}))
    before = {k: p.detach().clone() for k, p in run.backbone.generator_parameters().items()}
    run.stepper.objectives["perceptual"] = Objective(1.0, lambda made: (made.sr.mean() * float("nan"), {}))
    with pytest.raises(
        OSEDiffError,
        match=r"step 3: 3 of the last 3 .*loss/perceptual.*learning_rate.*velocity.*osediff\.safetensors",
    ):
        run.run()
    assert all(torch.equal(p, before[k]) for k, p in run.backbone.generator_parameters().items())


@pytest.mark.slow
def test_a_base_in_one_file_trains_with_the_vocabulary_it_is_given(
    config, micro_in_one_file, micro_architecture, tmp_path, monkeypatch
):
    rows = micro_in_one_file[TOKENS]  # the micro base knows a few words, and the file's vocabulary is CLIP's
    all_words = rows.repeat(-(-SIZE // len(rows)), 1)[:SIZE].contiguous()
    text_encoder = {**micro_architecture.text_encoder, "vocab_size": SIZE}
    architecture = replace(micro_architecture, text_encoder=text_encoder)
    base, words = tmp_path / "base.safetensors", tmp_path / "words"
    save_file(micro_in_one_file | {TOKENS: all_words}, base)
    write_vocabulary(words)
    monkeypatch.setattr("osediff_core.model.load_base", partial(load_base, architecture=architecture))

    def run(vocabulary):
        out = str(tmp_path / f"run_{vocabulary.name}")
        train(config(model={"base": str(base), "vocabulary": str(vocabulary)}, run={"steps": 1, "out": out}))

    run(words)
    with pytest.raises(OSEDiffError, match="elsewhere"):
        run(tmp_path / "elsewhere")


def test_a_base_that_predicts_velocity_is_refused(config, micro, tmp_path):
    base = tmp_path / "velocity"
    shutil.copytree(micro / "tiny_sd", base)
    file = base / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "v_prediction"}))
    config = config(model={"base": str(base)})
    with pytest.raises(OSEDiffError, match="v_prediction"):
        train(config)
    assert not Path(config.run.out).exists(), "nothing is left behind that the next try would trip over"


@pytest.mark.slow
def test_bf16_and_channels_last_train(config):
    run = config(run={"mixed_precision": "bf16", "channels_last": True}, optim=FAST)
    tensors = all_tensors(read_checkpoint(train(run)))
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert tensors["vae.quant_conv.lora_B.weight"].abs().max() > 0


@pytest.mark.slow
def test_merged_adapters_and_the_logarithm_reach_the_loop(config):
    plain = all_tensors(read_checkpoint(train(config(run={"steps": 1}, optim=FAST))))
    run = {"steps": 1, "merge_adapters": True, "overwrite": True}
    merged = all_tensors(read_checkpoint(train(config(run=run, optim=FAST))))
    for name, tensor in plain.items():
        assert (merged[name] - tensor).abs().mean() < 1e-3 + 0.2 * tensor.abs().mean(), name
    other = all_tensors(read_checkpoint(train(config(run=run, optim=FAST, loss={"data": "log_mse"}))))
    assert any(not torch.equal(other[name], merged[name]) for name in merged)


def test_output_layer_and_schedule():
    def one_update(output_lr_scale=1.0, **settings):
        parameters = {
            "unet.conv_in.lora_B.weight": torch.nn.Parameter(torch.ones(3)),
            "unet.conv_out.lora_B.weight": torch.nn.Parameter(torch.ones(3)),
        }
        settings = OptimConfig(learning_rate=0.1, weight_decay=0.0, **settings)
        updater = Updater(parameters, settings, output_lr_scale)
        updater.backward(sum(parameter.sum() for parameter in parameters.values()))
        updater.update({})
        return [1 - parameter[0].item() for parameter in parameters.values()]

    assert one_update() == pytest.approx([0.1, 0.1])
    assert one_update(output_lr_scale=0.05) == pytest.approx([0.1, 0.005])
    assert one_update(warmup_steps=4) == pytest.approx([0.025, 0.025])
    assert [rate_factor(step, 0, 10) for step in (0, 5, 10, 20)] == pytest.approx([1, 0.5, 0, 0])


def test_the_output_layer_of_the_critic_is_not_slowed(config):
    stepper = trainer(config(optim={"output_lr_scale": 0.1, "learning_rate": 1e-3})).stepper
    rates = [
        [group["lr"] for group in updater.optimizer.param_groups]
        for updater in (stepper.generator_optimizer, stepper.opponents["critic"].updater)
    ]
    assert rates == [[1e-3, pytest.approx(1e-4)], [1e-3, 1e-3]]


def test_generator_and_critic_are_clipped_apart():
    parameter = torch.nn.Parameter(torch.ones(4))
    updater = Updater({"unet.conv_in.lora_B.weight": parameter}, OptimConfig(max_grad_norm=1.0))
    parameter.grad = torch.full((4,), 3.0)
    assert updater.clip() == pytest.approx(6.0)
    assert parameter.grad.norm() == pytest.approx(1.0, rel=1e-4)


def test_draws_depend_on_seed_and_sample_alone():
    loss = TrainConfig().loss
    together, alone = noise_for(TrainConfig(), 7, 8, seed=123), noise_for(TrainConfig(), 8, seed=123)
    others = [noise_for(TrainConfig(), 8, seed=124), noise_for(TrainConfig(), 9, seed=123)]
    for name in ("posterior", "vsd_noise", "vsd_timesteps", "critic_noise", "critic_timesteps"):
        assert torch.equal(getattr(together, name)[1:], getattr(alone, name))
    assert not any(torch.equal(alone.vsd_noise, other.vsd_noise) for other in others)
    noises = (alone.posterior, alone.vsd_noise, alone.critic_noise)
    assert len({noise.sum().item() for noise in noises}) == 3
    many = draw(0, range(3200), (1, 1, 1), loss, CPU).vsd_timesteps
    assert (many.min() >= 20, many.max() < 980, many.min() < 40, many.max() > 960) == (True,) * 4


def test_contact_sheet_has_a_row_per_sample():
    columns = [torch.full((2, 3, 4, 5), value) for value in (0.0, 0.5, 1.0)]
    sheet = contact_sheet(*columns)
    assert sheet.shape == (3, 8, 15)
    assert sheet[0, 7, ::5].tolist() == [0.0, 0.5, 1.0]


def test_contact_sheet_fills_its_last_row_with_grey():
    sheet = contact_sheet(*(torch.full((3, 3, 4, 5), value) for value in (0.0, 1.0)), across=2)
    assert sheet.shape == (3, 8, 20)
    assert sheet[0, ::7, ::5].tolist() == [[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.5, 0.5]]


def test_a_state_of_another_device_keeps_this_ones_kernels():
    updater = Updater({"a": torch.nn.Parameter(torch.ones(2))}, OptimConfig())
    state = updater.state()
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = True  # as a card writes it
    updater.restore(state)
    assert [group["fused"] for group in updater.optimizer.param_groups] == [None, None]


def test_a_measure_that_is_no_number_is_not_the_best():
    values = iter([float("nan"), 1.0, float("nan"), 2.0, 2.0])
    validation = SimpleNamespace(restored=lambda: (None, None, None), worth=lambda *_: next(values))
    run = SimpleNamespace(config=SimpleNamespace(run=SimpleNamespace(best_by="psnr")), best=-float("inf"))
    run.validation, run._exported = validation, nullcontext
    found = [Trainer._is_best(run) for _ in range(5)]  # pyright: ignore[reportArgumentType]
    assert found == [False, True, False, True, False]
    assert run.best == 2.0

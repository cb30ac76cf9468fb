"""A critic that outlives its run, and one that learns alone at first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from osediff_core import OSEDiffError
from osediff_core.weights.checkpoint import read_checkpoint, save_tensors
from osediff_core.weights.tensorfile import TensorFile
from train.config import LossConfig, ModelConfig, RunConfig, TrainConfig
from train.data import build_dataset
from train.engine.critic_file import load_critic, open_critic, write_critic
from train.engine.loop import Trainer, train
from train.engine.state import read_state, state_path

LIVELY = {"learning_rate": 1e-2, "warmup_steps": 3, "decay_steps": 9, "ema_decay": 0.9}
EVERY = {"steps": 2, "checkpoint_every": 1, "keep_last": 1, "batch_size": 1}


def trainer(made):
    return Trainer(made, build_dataset(made.data, made.degradation, 0), Accelerator(cpu=True))


def states(made):
    """What the run left after each step, by its number."""
    out = Path(made.run.out)
    return [read_state(state_path(out, step)) for step in range(1, made.run.steps + 1)]


def same(one, other):
    """Whether two nested values are equal to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# ---- the file ----------------------------------------------------------------------------------------


def test_a_later_run_begins_with_the_critic_of_an_earlier_one(config, tmp_path):
    first = config(run={**EVERY, "keep_critic": True, "best_by": "psnr"}, optim=LIVELY)
    train(first)
    out = Path(first.run.out)
    numbers = [f"{name}_0000002" for name in ("critic", "osediff")]
    kept = {*numbers, "critic", "osediff", "critic_best", "osediff_best"}
    assert {path.stem for path in out.glob("*.safetensors")} == kept
    second = config(
        model={"critic_from": str(out / "critic.safetensors")}, run={"out": str(tmp_path / "second")}
    )
    begun, fresh = (trainer(replace(second, model=model)) for model in (second.model, first.model))
    learnt, untaught = read_state(state_path(out, 2))["critic"], fresh.backbone.critic_parameters()
    assert same(dict(begun.backbone.critic_parameters()), learnt)
    assert not same(dict(untaught), learnt), "control: a fresh critic is another"
    assert begun.stepper.opponents["critic"].updater.optimizer.state_dict()["state"] == {}
    assert same(dict(begun.backbone.generator_parameters()), dict(fresh.backbone.generator_parameters()))


def test_without_being_asked_no_critic_is_written(config):
    made = config(run={"steps": 1})
    train(made)
    assert not list(Path(made.run.out).glob("critic*"))


@pytest.fixture
def written(backbone, tmp_path):
    """A critic of the tiny base, in a file."""
    networks = backbone()
    for parameter in networks.critic_parameters().values():
        parameter.data.add_(0.1)
    write_critic(tmp_path / "critic.safetensors", networks, "print", {"base": "tiny"})
    return ModelConfig(critic_from=str(tmp_path / "critic.safetensors"))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"rank_unet": 8}, r"rank_unet = 4, expected 8: set model\.rank_unet"),
        ({"lora_alpha": 4.0}, r"lora_alpha = 8\.0, expected 4\.0"),
        ({"critic_layers": "middle"}, "critic_layers = all, expected middle"),
    ],
)
def test_a_critic_of_another_shape_is_refused_from_its_header(written, other, words, monkeypatch):
    assert open_critic(written).shapes
    monkeypatch.setattr(TensorFile, "read", None)
    with pytest.raises(OSEDiffError, match=words):
        open_critic(replace(written, **other))


def test_a_critic_of_another_base_is_refused(written, backbone):
    with pytest.raises(
        OSEDiffError, match=r"critic of another base \(tiny\), expected one of the bundled demo"
    ):
        load_critic(open_critic(written), backbone(), "another")
    load_critic(open_critic(written), backbone(), "print")


@pytest.mark.parametrize("damage", [{"unet.conv_in.lora_A.weight": None}, {"unet.more.lora_A.weight": 0.0}])
def test_a_damaged_critic_is_refused(written, backbone, damage):
    file = open_critic(written)
    tensors = {name: file.read(name) for name in file.shapes}
    for name, value in damage.items():
        tensors[name] = torch.full((4, 4, 3, 3), float("nan") if value is None else value)
    save_tensors(file.path, tensors, file.metadata)
    with pytest.raises(OSEDiffError, match=r"critic\.safetensors is damaged: .*(conv_in|more)\.lora_A"):
        load_critic(open_critic(written), backbone(), "print")


def test_checkpoint_and_critic_are_not_taken_for_each_other(written, micro):
    with pytest.raises(OSEDiffError, match="osediff-critic"):
        read_checkpoint(written.critic_from)
    with pytest.raises(OSEDiffError, match=r"is no critic, expected the format osediff-critic 1, got none"):
        open_critic(replace(written, critic_from=str(micro / "osediff.pkl")))


def test_it_is_looked_at_before_the_base_is_loaded(config, tmp_path, monkeypatch):
    made = config(model={"critic_from": str(tmp_path / "none.safetensors")})
    monkeypatch.setattr("train.engine.loop.OSEDiff", None)
    with pytest.raises(OSEDiffError, match=r"there is no file .*none\.safetensors"):
        train(made)


@pytest.mark.parametrize(
    ("section", "key", "made"),
    [
        ("model", "critic_from", ModelConfig(critic_from="critic.safetensors")),
        ("loss", "critic_warmup", LossConfig(critic_warmup=3)),
        ("run", "keep_critic", RunConfig(keep_critic=True)),
    ],
)
def test_what_is_asked_of_a_critic_needs_one(section, key, made):
    TrainConfig(**{section: made})
    without = made if section == "loss" else LossConfig()
    with pytest.raises(OSEDiffError, match=rf"{section}\.{key} = .* needs a critic"):
        TrainConfig(**{section: made} | {"loss": replace(without, lambda_vsd=0.0)})


# ---- warming up --------------------------------------------------------------------------------------


@pytest.fixture
def warm(config, tmp_path):
    """Return a maker of runs of three steps, in which a critic and a discriminator take part."""
    run = {"steps": 3, "checkpoint_every": 1, "keep_last": 0, "log_every": 1, "batch_size": 1}

    def make(name, steps):
        return config(
            run={**run, "out": str(tmp_path / name)},
            loss={"critic_warmup": steps, "lambda_gan": 0.1},
            optim=LIVELY,
        )

    return make


GENERATORS = ("generator", "generator_updater", "ema", "discriminator", "discriminator_updater")


def test_at_first_only_the_critic_learns_and_then_all_as_from_the_beginning(warm):
    made = warm("warm", 2)
    start = trainer(made)._trained()
    train(made)
    first, second, third = states(made)
    for state in (first, second):
        assert {name: same(state[name], start[name]) for name in GENERATORS} == dict.fromkeys(
            GENERATORS, True
        )
    assert not same(first["critic"], start["critic"])
    assert not same(second["critic"], first["critic"])
    changed = {name: not same(third[name], start[name]) for name in GENERATORS}
    assert changed == dict.fromkeys(GENERATORS, True)
    assert third["generator_updater"]["schedule"]["last_epoch"] == 1
    rows = [json.loads(line) for line in (Path(made.run.out) / "numbers.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["learning_rate"] for row in rows if "learning_rate" in row}
    assert [rates[step] for step in (1, 2, 3)] == pytest.approx([0, 0, 1e-2 / 3])
    totals = {row["step"] for row in rows if "loss/total" in row}
    assert totals == {3}
    assert {row["step"] for row in rows if "loss/critic" in row} == {1, 2, 3}


@pytest.mark.slow
def test_control_without_it_the_first_step_moves_the_generator(warm):
    made = warm("cold", 0)
    made = replace(made, run=replace(made.run, steps=1))
    start = trainer(made)._trained()
    train(made)
    assert not any(same(states(made)[0][name], start[name]) for name in GENERATORS)


@pytest.mark.parametrize("stopped", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_while_warming_ends_as_one_that_was_not(warm, stopped):
    whole, parted = warm("whole", 2), warm("parted", 2)
    train(whole)
    train(replace(parted, run=replace(parted.run, steps=stopped)))
    train(replace(parted, run=replace(parted.run, resume=True)))
    ends = [states(made)[-1] for made in (whole, parted)]
    assert all(same(ends[0][name], ends[1][name]) for name in (*GENERATORS, "critic", "critic_updater"))


def test_a_state_of_another_warming_is_another_run(warm):
    made = warm("one", 2)
    train(replace(made, run=replace(made.run, steps=1)))
    other = warm("one", 3)
    with pytest.raises(OSEDiffError, match=r"loss\.critic_warmup \(2 then, 3 now\)"):
        train(replace(other, run=replace(other.run, resume=True)))

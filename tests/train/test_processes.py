"""Several processes train as one with the same pictures per step would, and speak once."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from osediff_core import OSEDiffError
from train.config import RunConfig, to_toml
from train.data import build_dataset
from train.engine.loop import Trainer, train
from train.engine.setup import launched_as_several, refuse_ignored
from train.optim.averages import averaging

ROOT = Path(__file__).parents[2]
STEPS = 5
GATE = 1e-5
SMOOTH = 1e-3
"""An epsilon far above what rounding leaves in the gradients, here 1e-6 at most: a step of AdamW is then
never the sign of a rounding error, and weights are as near as gradients are."""


def launch(processes, *arguments):
    """Run a Python program as several processes, with a rendezvous on a free port."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture
def settings(config, tmp_path):
    """Four pictures a step; the loss of the critic is loud enough to move its weights."""
    run = {"steps": STEPS, "batch_size": 4, "tracker": "tensorboard", "sample_every": 3, "sample_count": 1}
    return config(
        run=run | {"checkpoint_every": 2, "out": str(tmp_path / "one")},
        optim={"learning_rate": 1e-3, "epsilon": SMOOTH},
    )


def farthest(one, other):
    """Largest difference of the weights of generator and critic."""
    differences = [
        (a[k] - b[k]).abs().max().item() for a, b in zip(one, other, strict=True) for k in a.keys() | b.keys()
    ]
    return max(differences)


def weights(trainer):
    both = trainer.backbone.generator_parameters(), trainer.backbone.critic_parameters()
    return [{k: p.detach().clone() for k, p in tensors.items()} for tensors in both]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "batch_size", "rounds"),
    [(2, 1, 2), pytest.param(4, 1, 1, marks=pytest.mark.slow)],
)
def test_processes_train_as_one(settings, tmp_path, processes, batch_size, rounds):
    run = replace(
        settings.run, out=str(tmp_path / "many"), batch_size=batch_size, accumulation=rounds, workers=1
    )
    file = tmp_path / "many.toml"
    file.write_text(to_toml(replace(settings, run=run)))
    launch(processes, ROOT / "tests" / "train" / "ranks.py", file, tmp_path)
    together, apart, astray = (
        [torch.load(tmp_path / f"{what}_{rank}.pt", weights_only=True) for rank in range(processes)]
        for what in ("together", "apart", "astray")
    )
    alone = Trainer(settings, build_dataset(settings.data, settings.degradation, 123), Accelerator(cpu=True))
    start = weights(alone)
    alone.run()
    assert all(farthest(together[0], other) == 0 for other in together[1:])
    assert farthest(together[0], weights(alone)) <= GATE
    assert farthest(start, together[0]) > 100 * GATE, "control: the steps moved the weights"
    assert farthest(apart[0], apart[1]) > GATE, "control: without averaging they go their own ways"
    assert farthest(astray[0], weights(alone)) > 10 * GATE, "control: other pictures, other weights"

    one, many = Path(settings.run.out), tmp_path / "many"
    for folder in (one, many):
        assert len(list((folder / "tensorboard").iterdir())) == 1
    names = [sorted(p.name for p in folder.rglob("*") if "tfevents" not in p.name) for folder in (one, many)]
    assert names[0] == names[1]
    assert "state_0000004.pt" in names[1]


def one_step(config, batches):
    """Take a step; returns each network's gradients as AdamW gets them, and its weights after it."""
    trainer = Trainer(config, build_dataset(config.data, config.degradation, 123), Accelerator(cpu=True))
    updaters = trainer.stepper.generator_optimizer, trainer.stepper.opponents["critic"].updater
    gradients = []
    for updater in updaters:
        clip = updater.clip

        def look(updater=updater, clip=clip):
            norm = clip()
            gradients.append(torch.cat([p.grad.flatten() for p in updater.parameters]))
            return norm

        updater.clip = look
    trainer.stepper.step(batches(trainer))
    after = [torch.cat([p.detach().flatten() for p in updater.parameters]) for updater in updaters]
    return gradients, after


def first_batches(trainer):
    return next(trainer.feed.rounds(0))


def relative(one, other):
    return [((a - b).norm() / a.norm()).item() for a, b in zip(one, other, strict=True)]


@pytest.mark.slow
def test_the_published_epsilon_parts_only_weights_whose_gradients_are_nearly_zero(config):
    """A step of four pictures at once and one by one, which add up the same numbers in another order."""
    one = config(run={"batch_size": 4}, optim={"learning_rate": 1e-3})
    four = replace(one, run=replace(one.run, batch_size=1, accumulation=4))
    gradients, after = one_step(one, first_batches)
    others, others_after = one_step(four, first_batches)
    wrong, _ = one_step(four, lambda trainer: first_batches(trainer)[:3] + next(trainer.feed.rounds(1))[:1])
    assert max(relative(gradients, others)) <= GATE
    assert min(relative(gradients, wrong)) > 1000 * GATE, "control: one picture of four is another"
    for gradient, a, b in zip(gradients, after, others_after, strict=True):
        apart = (a - b).abs() > GATE / 10
        assert gradient[apart].abs().max() < 1e-5 * gradient.abs().max()
        assert apart.sum() < len(apart) / 100


def test_one_exchange_carries_gradients_and_numbers():
    exchanged = []

    class Two:
        num_processes = 2

        def reduce(self, tensor, reduction):
            exchanged.append((tensor.numel(), reduction))
            return tensor / 2  # the other process had zeros

    parameters = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4))]
    idle = torch.nn.Parameter(torch.ones(5))
    (parameters[0].sum() * 3 + (parameters[1] * torch.arange(4)).sum()).backward()
    values = averaging(Two())([*parameters, idle], {"a": torch.tensor(5.0), "b": torch.tensor(7.0)})
    assert exchanged == [(12, "mean")]
    assert values == {"a": 2.5, "b": 3.5}
    assert torch.equal(parameters[0].grad, torch.full((2, 3), 1.5))
    assert torch.equal(parameters[1].grad, torch.arange(4) / 2)
    assert idle.grad is None


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, False),  # one
        (
            {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"},
            True,
        ),  # two, no cards
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}, False),
        ({"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}, False),  # torchrun
    ],
)
def test_a_launch_that_came_to_less_than_was_asked_for_is_recognised(environment, several):
    assert launched_as_several(environment) == several


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ACCELERATE_USE_FSDP", "true", ["FSDP", "run.recompute"]),
        ("ACCELERATE_USE_DEEPSPEED", "true", ["DeepSpeed", "run.recompute"]),
        ("ACCELERATE_USE_MEGATRON_LM", "true", ["Megatron-LM", "run.recompute"]),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", ["torch.compile", "--dynamo_backend no"]),
        ("ACCELERATE_MIXED_PRECISION", "bf16", ['run.mixed_precision = "bf16"']),
        ("ACCELERATE_MIXED_PRECISION", "fp8", ["fp8", 'run.mixed_precision = "bf16"']),
    ],
)
def test_what_a_launch_asks_for_and_nobody_would_do_is_refused(config, monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr("train.engine.loop._prepared", lambda *_: pytest.fail("it began"))
    with pytest.raises(OSEDiffError) as error:
        train(config())
    assert [word for word in words if word not in str(error.value)] == []


def test_what_a_launch_always_says_is_no_wish():
    """The environment of `accelerate launch --num_processes 1`, and of one that says what the run says."""
    plain = {
        "ACCELERATE_USE_CPU": "False",
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_DYNAMO_MODE": "default",
    }
    refuse_ignored({}, RunConfig())
    refuse_ignored(plain, RunConfig(mixed_precision="bf16"))
    refuse_ignored(plain | {"ACCELERATE_MIXED_PRECISION": "bf16"}, RunConfig(mixed_precision="bf16"))


@pytest.mark.slow
@pytest.mark.parametrize(("options", "processes"), [((), 1), (("--multi_gpu",), 2)])
def test_accelerate_launches_the_smoke_configuration(tmp_path, pictures, options, processes):
    """Without cards `--num_processes 2` alone starts one process, which says so."""
    out = tmp_path / "smoke"
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "--num_processes", "2"]
    command += ["-m", "train", str(ROOT / "train" / "configs" / "smoke.toml"), "--run.out", str(out)]
    command += ["--data.sources", str(pictures)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("The newest checkpoint") == 1
    state = torch.load(out / "state_0000010.pt", weights_only=True)
    assert len(state["random"]) == processes
    assert state["global_batch"] == 2 * processes
    assert ("found no cards and started one" in done.stderr) == (processes == 1)

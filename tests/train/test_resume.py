"""Nothing is lost: interrupted runs end as if they had not been, and what cannot go on says why."""

import dataclasses
import importlib.util
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from osediff_core import OSEDiff, OSEDiffError
from osediff_core.base.folder import write_network
from osediff_core.weights.checkpoint import read_checkpoint, write_checkpoint
from osediff_core.whole_files import NOBODY, name_beside
from train.config import LossConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from train.data import DataConfig, build_dataset
from train.engine.loop import Trainer, train
from train.engine.same_run import FREE
from train.engine.setup import init_generator, read_start
from train.engine.shares import Share
from train.engine.state import newest_state, read_state, write_state
from train.objectives.objective import Objective
from train.optim.ema import RunningAverage
from train.optim.guard import Guard
from train.optim.optimizers import rate_factor

SPEC = importlib.util.spec_from_file_location(
    "kill_and_resume", Path(__file__).with_name("kill_and_resume.py")
)
kill_and_resume = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(kill_and_resume)
differences, leaves = kill_and_resume.differences, kill_and_resume.leaves

LIVELY = {"learning_rate": 1e-3, "warmup_steps": 3, "decay_steps": 9, "ema_decay": 0.9}


class Killed(BaseException):
    """A process ends without having its say."""


def run_until(config, step, monkeypatch):
    """Run, and be killed in the middle of a step."""
    take = Trainer._one_step

    def take_or_die(self, *arguments):
        if self.step == step:
            raise Killed
        take(self, *arguments)

    monkeypatch.setattr(Trainer, "_one_step", take_or_die)
    with pytest.raises(Killed):
        train(config)


def end_of(config):
    return read_state(newest_state(Path(config.run.out)))


def settings_of(micro, pictures, out, **sections):
    """Five steps on small crops, with all that a state has to carry."""
    made = TrainConfig(
        model=ModelConfig(base=str(micro / "tiny_sd")),
        data=DataConfig(sources=(str(pictures),), crop=32),
        loss=LossConfig(perceptual="gradient"),
        optim=OptimConfig(**LIVELY),
        run=RunConfig(
            out=str(out), steps=5, batch_size=1, workers=0, checkpoint_every=2, sample_every=0, tracker="none"
        ),
    )
    return replace(made, **{name: replace(getattr(made, name), **new) for name, new in sections.items()})


@pytest.fixture
def run(micro, pictures, tmp_path):
    """Return a maker of runs in folders of their own."""
    return lambda name, **sections: settings_of(micro, pictures, tmp_path / name, **sections)


def again(config, **settings):
    return replace(config, run=replace(config.run, resume=True, **settings))


@pytest.fixture(scope="module")
def runs(micro, pictures, tmp_path_factory):
    """A run that nobody interrupted, and one that was killed in step 4, with a state of step 2."""
    folder = tmp_path_factory.mktemp("runs")
    whole, killed = (settings_of(micro, pictures, folder / name) for name in ("whole", "killed"))
    train(whole)
    with pytest.MonkeyPatch.context() as patch:
        run_until(killed, 3, patch)
    return whole, killed


@pytest.fixture
def begun(runs, tmp_path):
    """A copy of the killed run."""
    shutil.copytree(runs[1].run.out, tmp_path / "begun")
    return replace(runs[1], run=replace(runs[1].run, out=str(tmp_path / "begun")))


@pytest.fixture
def whole(runs):
    """The run that nobody interrupted."""
    return runs[0]


def test_a_killed_run_ends_as_one_that_was_not(whole, begun):
    train(again(begun, workers=1))
    assert newest_state(Path(begun.run.out)).name == "state_0000005.pt"
    assert differences(end_of(whole), end_of(begun)) == []
    weights = [read_checkpoint(Path(c.run.out) / "osediff.safetensors") for c in (whole, begun)]
    assert all(torch.equal(t, weights[1].unet[k]) for k, t in weights[0].unet.items())


@pytest.mark.parametrize(
    "part",
    ["critic", *(pytest.param(name, marks=pytest.mark.slow) for name in ("generator_updater", "ema"))],
)
def test_control_a_state_without_one_part_ends_elsewhere(whole, begun, part):
    path = newest_state(Path(begun.run.out))
    state = read_state(path)
    fresh = Trainer(begun, build_dataset(begun.data, begun.degradation, 0), Accelerator(cpu=True))._state([])
    write_state(path, {**state, part: fresh[part]})
    train(again(begun))
    assert differences(end_of(whole), end_of(begun))


@pytest.mark.slow
def test_the_same_pictures_may_come_in_other_rounds(run):
    """Batches of 2, or 1 and 1: a state may be taken up by more or fewer processes."""
    two = run("two", run={"batch_size": 2, "steps": 1})
    train(two)
    train(again(two, batch_size=1, accumulation=2, steps=2))
    assert end_of(two)["step"] == 2


@pytest.mark.slow
def test_what_only_reports_may_change_and_changes_nothing(whole, begun):
    train(again(begun, signals_every=1, log_every=1, tracker="tensorboard"))
    assert differences(end_of(whole), end_of(begun)) == []


def test_what_may_change_are_settings_that_there_are():
    given = TrainConfig(run=RunConfig(metrics=("drift",)))  # an empty list has no leaves
    names = {name.removesuffix("/0") for name, _ in leaves(dataclasses.asdict(given))}
    assert {f"/{name.replace('.', '/')}" for name in FREE} <= names


@pytest.mark.slow
def test_a_finished_run_can_be_extended_and_does_nothing_otherwise(begun):
    train(again(begun, steps=2))
    first = end_of(begun)
    assert first["step"] == 2
    train(again(begun, steps=2))
    assert differences(first, end_of(begun)) == []
    train(again(begun, steps=3))
    assert end_of(begun)["step"] == 3


@pytest.mark.slow
def test_resuming_where_nothing_is_begins(run):
    train(again(run("new", run={"steps": 1})))


@pytest.mark.parametrize(
    ("section", "settings", "words"),
    [
        ("optim", {"learning_rate": 0.5}, ["optim.learning_rate", "0.001 then", "0.5 now"]),
        pytest.param(
            "model", {"rank_unet": 8}, ["model.rank_unet", "4 then", "8 now"], marks=pytest.mark.slow
        ),
        pytest.param("loss", {"guidance": 2.0}, ["loss.guidance"], marks=pytest.mark.slow),
        ("run", {"batch_size": 3}, ["pictures per step", "1 then", "3 now"]),
        pytest.param("run", {"mixed_precision": "bf16"}, ["run.mixed_precision"], marks=pytest.mark.slow),
    ],
)
def test_the_state_of_another_configuration_is_refused_by_name(begun, section, settings, words):
    other = again(begun)
    other = replace(other, **{section: replace(getattr(other, section), **settings)})
    with pytest.raises(OSEDiffError) as error:
        train(other)
    assert [word for word in [*words, "init_from"] if word not in str(error.value)] == []


def test_a_changed_rate_is_gone_on_with_where_that_is_said(begun, whole, caplog):
    """The moments stay, so that the first step after it is another only by its length."""
    config = replace(begun, optim=replace(begun.optim, learning_rate=0.01, weight_decay=0.0))
    with pytest.raises(OSEDiffError, match=r'go on with them by run\.resume = "changed", or begin'):
        train(again(config))
    changed = replace(config, run=replace(config.run, resume="changed"))
    trainer = Trainer(changed, build_dataset(begun.data, begun.degradation, 0), Accelerator(cpu=True))
    caplog.set_level("INFO")
    trainer.resume()
    assert "optim.learning_rate (0.001 then, 0.01 now); optim.weight_decay" in caplog.text
    state = read_state(newest_state(Path(begun.run.out)))
    for updater, name in (
        (trainer.stepper.generator_optimizer, "generator_updater"),
        (trainer.stepper.opponents["critic"].updater, "critic_updater"),
    ):
        there, now = state[name]["optimizer"], updater.optimizer.state_dict()
        assert all(torch.equal(there["state"][n]["exp_avg"], s["exp_avg"]) for n, s in now["state"].items())
        steps, after = updater.schedule.last_epoch, [group["lr"] for group in now["param_groups"]]
        factor = rate_factor(steps, begun.optim.warmup_steps, begun.optim.decay_steps)
        before = [group["lr"] for group in there["param_groups"]]
        assert after == pytest.approx([10 * rate for rate in before])
        assert updater.learning_rate == after[0] == 0.01 * factor
        assert {group["weight_decay"] for group in now["param_groups"]} == {0.0}
        updater.schedule.step()
        following = rate_factor(steps + 1, begun.optim.warmup_steps, begun.optim.decay_steps)
        assert updater.learning_rate == pytest.approx(0.01 * following)


def test_what_makes_another_run_is_refused_with_that_word_too(begun, caplog):
    other = replace(begun, run=replace(begun.run, resume="changed", mixed_precision="bf16"))
    other = replace(other, optim=replace(other.optim, learning_rate=0.01))
    caplog.set_level("INFO")
    with pytest.raises(OSEDiffError, match=r"run\.mixed_precision .*: restore the settings, or begin"):
        train(other)
    assert "Going on" not in caplog.text


def test_that_word_alone_changes_nothing(whole, begun):
    train(replace(begun, run=replace(begun.run, resume="changed")))
    assert differences(end_of(whole), end_of(begun)) == []


def test_the_state_of_another_base_is_refused(begun, tmp_path, micro):
    base = OSEDiff.from_pretrained(micro / "tiny_sd", dtype="float32", device="cpu")
    base.unet.conv_out.weight.data += 0.01
    folder = tmp_path / "base"
    shutil.copytree(micro / "tiny_sd", folder)
    moved = replace(again(begun), model=replace(begun.model, base=str(folder)))
    state = Trainer(moved, build_dataset(begun.data, begun.degradation, 0), Accelerator(cpu=True))
    state.resume()  # the same base elsewhere
    write_network(folder / "unet", base.unet)
    with pytest.raises(OSEDiffError, match=r"the base \(other weights"):
        train(moved)


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"x"]
)
def test_a_damaged_state_is_named(begun, damage):
    path = newest_state(Path(begun.run.out))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(OSEDiffError, match=r"state_0000002\.pt is damaged"):
        train(again(begun))


def test_a_state_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "state_0000001.pt"
    write_state(path, {"step": 1})
    name_beside(path, owner=NOBODY).write_bytes(b"half")  # of a run that was killed

    def fail(*_):
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(OSEDiffError, match="no room"):
            write_state(path, {"step": 2})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert read_state(path)["step"] == 1


@pytest.mark.slow
def test_the_newest_and_the_best_are_kept(run):
    config = run("kept", run={"steps": 3, "checkpoint_every": 1, "keep_last": 2, "best_by": "psnr"})
    train(config)
    out = Path(config.run.out)
    assert sorted(p.name for p in out.glob("state_*")) == ["state_0000002.pt", "state_0000003.pt"]
    assert sorted(p.name for p in out.glob("*.safetensors")) == [
        "osediff.safetensors", "osediff_0000002.safetensors", "osediff_0000003.safetensors",
        "osediff_best.safetensors",
    ]  # fmt: skip
    assert 5 < end_of(config)["best"] < 60


@pytest.mark.slow
def test_the_best_is_the_best(run, monkeypatch):
    values = iter([1.0, 3.0, 2.0])
    monkeypatch.setattr(
        "train.engine.validation.FIDELITY", {"ssim": lambda sr, hq: torch.tensor([next(values)])}
    )
    config = run("best", run={"steps": 3, "checkpoint_every": 1, "best_by": "ssim"})
    train(config)
    best = read_checkpoint(Path(config.run.out) / "osediff_best.safetensors")
    assert (best.metadata["steps"], end_of(config)["best"]) == ("2", 3.0)


# ---- running average ----------------------------------------------------------------------------------


def test_running_average_by_hand():
    parameter = torch.nn.Parameter(torch.zeros(1))
    average = RunningAverage({"p": parameter}, 0.5)
    expected = 0.0
    for number in range(1, 6):
        parameter.data.fill_(number)
        average.update()
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * number
    assert average.values["p"].item() == pytest.approx(expected)
    with average.applied():
        assert parameter.item() == pytest.approx(expected)
    assert parameter.item() == 5


def test_the_average_is_what_is_exported(whole):
    state = end_of(whole)
    exported = read_checkpoint(Path(whole.run.out) / "osediff.safetensors").unet
    key = "conv_in.lora_B.weight"
    assert torch.equal(exported[key], state["ema"]["values"][f"unet.{key}"])
    assert not torch.equal(exported[key], state["generator"][f"unet.{key}"])


# ---- starting from a checkpoint -----------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("ours", "settings"),
    [(False, {}), (True, {}), (False, {"rank_unet": 6, "rank_vae": 5}), (True, {"lora_alpha": 3.0})],
)
def test_starting_from_a_checkpoint_is_the_same_function(backbone, batch, micro, tmp_path, settings, ours):
    path = micro / "osediff.pkl"
    if ours:
        write_checkpoint(tmp_path / "ours.safetensors", read_checkpoint(path))
        path = tmp_path / "ours.safetensors"
    networks = backbone(**settings)
    prompt = torch.zeros(1, 77, 16)
    untrained, _ = networks.generate(batch[0], prompt, None)
    init_generator(networks, read_checkpoint(path))
    expected, _ = OSEDiff.from_pretrained(
        micro / "tiny_sd", micro / "osediff.pkl", dtype="float32", device="cpu"
    )(batch[0], prompt)
    sr, _ = networks.generate(batch[0], prompt, None)
    torch.testing.assert_close(sr, expected, atol=2e-5, rtol=0)
    assert (untrained - expected).abs().max() > 1e-3


def test_the_bundled_checkpoint_is_found_from_any_folder(backbone, tmp_path, monkeypatch):
    """Of another base here, so that its name in the refusal says that it was read."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSEDiffError, match=r"the checkpoint has unet|rank \d+ in unet|does not fit"):
        init_generator(backbone(), read_start("demo"))


def test_what_a_checkpoint_has_too_much_is_named(backbone, micro):
    checkpoint = read_checkpoint(micro / "osediff.pkl")
    with pytest.raises(OSEDiffError, match=r"rank 4 in unet: set model\.rank_unet"):
        init_generator(backbone(rank_unet=2), checkpoint)
    with pytest.raises(OSEDiffError, match=r"unet\.conv_in\.(weight|bias)"):
        init_generator(backbone(train_conv_in=False), checkpoint)


def test_a_checkpoint_of_another_base_is_refused_before_anything_is_added_to_it(run, micro, tmp_path):
    checkpoint = read_checkpoint(micro / "osediff.pkl")
    layer = "mid_block.resnets.0.conv1.lora_A.weight"
    for key, side in ((layer, 1), ("conv_in.weight", 0)):
        wide = torch.cat([checkpoint.unet[key]] * 2, dim=side)
        write_checkpoint(
            tmp_path / "wide.safetensors", replace(checkpoint, unet=checkpoint.unet | {key: wide})
        )
        config = run("wide", model={"init_from": str(tmp_path / "wide.safetensors")}, run={"steps": 1})
        with pytest.raises(OSEDiffError, match=rf"model\.init_from cannot be used: .*{re.escape(key)} is \("):
            train(config)
    write_checkpoint(tmp_path / "wide.safetensors", checkpoint)
    train(config)


def test_a_run_can_start_from_the_published_file(run, micro):
    config = run("tuned", model={"init_from": str(micro / "osediff.pkl")}, run={"steps": 1})
    trainer = Trainer(config, build_dataset(config.data, config.degradation, 0), Accelerator(cpu=True))
    assert all(p.abs().max() == 0 for k, p in trainer.backbone.critic_parameters().items() if "lora_B" in k)
    assert trainer.stepper.generator_optimizer.optimizer.state_dict()["state"] == {}
    published = read_checkpoint(micro / "osediff.pkl").unet["mid_block.resnets.0.conv1.lora_B.weight"]
    started = trainer.backbone.generator_parameters()["unet.mid_block.resnets.0.conv1.lora_B.weight"]
    assert torch.equal(started, published)
    train(config)


# ---- harmful steps ------------------------------------------------------------------------------------


def judge(guard, norm, loss=1.0):
    return guard.allows({"loss/total": torch.tensor(loss)}, torch.tensor(norm))


def test_harmful_steps_are_skipped_and_counted():
    guard = Guard(limit=3, factor=10.0)
    assert all(judge(guard, norm) for norm in [1.0, 2.0] * 40)
    assert judge(guard, 12.0)  # ten times the mean would be 14
    assert [judge(guard, 1000.0), judge(guard, float("nan")), judge(guard, 1.0, float("inf"))] == [False] * 3
    assert (guard.total, judge(guard, 1.5)) == (3, True)
    with pytest.raises(OSEDiffError, match=r"4 of the last 85 .*gradient.*v|velocity"):
        judge(guard, 1e9)


def test_the_guard_forgets_after_a_while_and_can_be_taken_up():
    guard = Guard(limit=1, factor=10.0)
    for _ in range(3):
        assert not judge(guard, float("inf"))
        copied = Guard(limit=1, factor=10.0)
        copied.restore(guard.state())
        guard = copied
        for _ in range(100):
            assert judge(guard, 1.0)
    assert guard.total == 3


def test_at_first_no_norm_is_unusual_and_zero_means_never():
    assert all(judge(Guard(0, 10.0), norm) for norm in (1.0, 1e6, 1.0))
    never = Guard(0, 0.0)
    assert all(judge(never, 1.0) for _ in range(60))
    assert judge(never, 1e6)


def test_a_step_that_is_skipped_changes_nothing_and_the_next_one_does(run, batch):
    config = run("skip")
    trainer = Trainer(config, build_dataset(config.data, config.degradation, 0), Accelerator(cpu=True))
    before = {k: p.detach().clone() for k, p in trainer.backbone.generator_parameters().items()}
    objectives = trainer.stepper.objectives
    perceptual = objectives["perceptual"]
    rounds = trainer.feed.rounds(0)
    objectives["perceptual"] = Objective(float("inf"), perceptual.loss)
    assert trainer.stepper.step(next(rounds))["skipped"] == 1
    after = trainer.backbone.generator_parameters()
    assert all(torch.equal(p, before[k]) for k, p in after.items())
    objectives["perceptual"] = perceptual
    assert trainer.stepper.step(next(rounds))["skipped"] == 1
    assert any(not torch.equal(p, before[k]) for k, p in after.items())


# ---- who sees what ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("processes", "batch_size", "rounds"), [(1, 12, 1), (2, 6, 1), (4, 1, 3), (3, 2, 2)])
def test_every_step_sees_its_samples_however_they_are_shared(processes, batch_size, rounds):
    shares = [Share(rank, processes, batch_size, rounds) for rank in range(processes)]
    assert {share.global_batch for share in shares} == {12}
    lists = [list(share.batches(3, 5)) for share in shares]
    assert {len(ls) for ls in lists} == {2 * rounds} == {len(shares[0].batches(3, 5))}
    for step in (0, 1):
        seen = [n for ls in lists for numbers in ls[step * rounds : (step + 1) * rounds] for n in numbers]
        assert sorted(seen) == list(range((3 + step) * 12, (4 + step) * 12))


def test_defaults_of_what_is_new_are_the_published_ways():
    assert (OptimConfig().ema_decay, OptimConfig().output_lr_scale) == (0.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (2, 1)])
def test_kill_and_resume(processes, workers):
    assert kill_and_resume.main([f"--processes={processes}", f"--workers={workers}", "--kills=2"]) == 0

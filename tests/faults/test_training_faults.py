"""A training cannot mix runs: processes that differ, states that are damaged, disks that are full."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from osediff_core import OSEDiffError
from train.config import LossConfig, ModelConfig, RunConfig, TrainConfig, to_toml
from train.data import DataConfig, build_dataset
from train.data.listing import changes
from train.engine.loop import Trainer, train
from train.engine.state import checksum, newest_state, read_state, write_state
from train.watch.trackers import Nothing

ROOT = Path(__file__).resolve().parents[2]
SIDE = 48


def write_picture(path, seed, side=SIDE):
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = torch.randint(256, (side, side, 3), generator=torch.Generator().manual_seed(seed))
    Image.fromarray(levels.byte().numpy()).save(path)


@pytest.fixture(scope="module")
def begun_once(micro, tmp_path_factory):
    """A run of three steps that has kept a state of each, and its pictures, one of them in a folder below."""
    folder = tmp_path_factory.mktemp("begun")
    for seed, name in enumerate(("a.png", "b.png", "below/c.png")):
        write_picture(folder / "pictures" / name, seed)
    config = TrainConfig(
        model=ModelConfig(base=str(micro / "tiny_sd")),
        data=DataConfig(sources=(str(folder / "pictures"),), crop=32),
        loss=LossConfig(perceptual="gradient"),
        run=RunConfig(
            out=str(folder / "run"), steps=3, batch_size=1, workers=0, checkpoint_every=1, sample_every=0,
            tracker="none", device="cpu",
        ),
    )  # fmt: skip
    train(config)
    return config


@pytest.fixture
def begun(begun_once, tmp_path):
    """A copy of the run and its pictures, elsewhere, to be gone on with."""
    folder = Path(begun_once.run.out).parent
    for name in ("run", "pictures"):
        shutil.copytree(folder / name, tmp_path / name)
    data = replace(begun_once.data, sources=(str(tmp_path / "pictures"),))
    return replace(begun_once, data=data, run=replace(begun_once.run, out=str(tmp_path / "run"), resume=True))


def taken_up(config):
    """Return the trainer of a configuration after it has resumed."""
    dataset = build_dataset(config.data, config.degradation, config.run.seed)
    trainer = Trainer(config, dataset, Accelerator(cpu=True))
    trainer.resume()
    return trainer


# ---- pictures -------------------------------------------------------------------------------------------


def test_a_folder_that_was_moved_is_the_same(begun):
    assert taken_up(begun).step == 3


def remove(folder):
    (folder / "b.png").unlink()


def rename(folder):
    (folder / "a.png").rename(folder / "z.png")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: write_picture(folder / "d.png", 9), "1 added, for example d.png"),
        (remove, "1 removed, for example b.png"),
        (rename, "1 added, 1 removed, for example z.png"),
        (
            lambda folder: write_picture(folder / "below" / "c.png", 9, SIDE + 8),
            "1 of another size, for example below/c.png",
        ),
    ],
)
def test_what_changed_in_the_pictures_is_named(begun, change, said):
    change(Path(begun.data.sources[0]))
    with pytest.raises(OSEDiffError) as error:
        taken_up(begun)
    assert f"training pictures ({said})" in str(error.value)


@pytest.mark.slow
def test_validation_pictures_and_halves_of_pairs_are_pictures_too(begun, tmp_path):
    hq, lq, held_out = (tmp_path / name for name in ("hq", "lq", "held_out"))
    for folder in (hq, lq, held_out):
        write_picture(folder / "x.png", 1)
    data = replace(begun.data, sources=(str(hq),), lq_sources=(str(lq),), validation=(str(held_out),))
    new = replace(begun, data=data, run=replace(begun.run, out=str(tmp_path / "new"), steps=1))
    train(new)
    assert taken_up(new).step == 1
    write_picture(held_out / "y.png", 2)
    write_picture(lq / "x.png", 1, SIDE // 2)
    with pytest.raises(OSEDiffError) as error:
        taken_up(new)
    assert "training pictures (1 of another size, for example LQ x.png)" in str(error.value)
    assert "validation pictures (1 added, for example y.png)" in str(error.value)


@pytest.mark.slow
def test_a_state_that_lists_no_pictures_goes_by_their_place(begun, begun_once):
    path = newest_state(Path(begun.run.out))
    state = read_state(path)
    del state["pictures"]
    write_state(path, state)
    with pytest.raises(OSEDiffError, match=r"data\.sources"):
        taken_up(begun)
    assert taken_up(replace(begun, data=begun_once.data)).step == 3


def test_listings_are_compared_as_sequences_of_names_and_sizes():
    then = [("a", 1), ("b", 2), ("a", 3)]
    assert changes(then, list(then)) == ""
    assert changes(then, [("b", 2), ("a", 1), ("a", 3)]) == "the same ones in another order"
    assert changes(then, [("a", 1), ("b", 2), ("a", 4)]) == "1 of another size, for example a"
    assert changes(then, then[:2]) == "1 removed, for example a"
    assert changes(then, [*then, ("c", 1), ("c", 1)]) == "2 added, for example c"
    assert changes([], then) == "3 added, for example a"


def test_a_data_set_is_its_files_not_their_folder(tmp_path):
    from train.data.streams import bytes_here, placeless

    for folder, content in (("one", b"12345"), ("two", b"12345"), ("three", b"123456")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.parquet").write_bytes(content)
    said = [
        (placeless(source), bytes_here(source))
        for source in (
            *(f"hf:{tmp_path / name}" for name in ("one", "two", "three")),
            *(f"hf:parquet?data_files={tmp_path / name}/*.parquet" for name in ("one", "two", "three")),
        )
    ]
    assert said[0] == said[1] != said[2]
    assert said[3] == said[4] != said[5]
    assert (placeless("hf:a/b"), bytes_here("hf:a/b")) != (placeless("hf:a/c"), bytes_here("hf:a/c"))
    assert placeless("hf:a/b?split=test") != placeless("hf:a/b")


# ---- damaged states -------------------------------------------------------------------------------------


def cut(content):
    return content[: len(content) // 2]


def without_its_end(content):
    return content[:-100]


def flip(content):
    """Change one bit of the largest tensor: elsewhere it may fall where nothing that is read lies."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        tensors = [info for info in archive.infolist() if "/data/" in info.filename]
        tensor = archive.read(max(tensors, key=lambda info: info.file_size))
    middle = content.index(tensor) + len(tensor) // 2  # stored as it is, not compressed
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, without_its_end, flip, lambda content: b"", lambda content: b"x"])
def test_a_damaged_state_is_passed_over_for_the_one_before(begun, damage, caplog):
    newest = newest_state(Path(begun.run.out))
    newest.write_bytes(damage(newest.read_bytes()))
    assert taken_up(begun).step == 2
    assert f"{newest} is damaged" in caplog.text


def test_where_all_are_damaged_nothing_is_begun(begun):
    for path in Path(begun.run.out).glob("state_*.pt"):
        path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(OSEDiffError, match=r"state_0000003\.pt is damaged .*no whole one: remove"):
        train(begun)


def test_a_state_that_cannot_be_read_is_not_taken_for_damaged(begun):
    newest = newest_state(Path(begun.run.out))
    newest.unlink()
    newest.mkdir()
    with pytest.raises(OSEDiffError, match=r"state_0000003\.pt cannot be read: Is a directory"):
        taken_up(begun)


def test_a_flipped_bit_is_seen_by_the_checksum_alone(begun, tmp_path):
    path = newest_state(Path(begun.run.out))
    state = read_state(path)
    name, weight = next(iter(state["critic"].items()))
    state["critic"][name] = weight + torch.finfo(weight.dtype).eps * (1 + weight.abs())
    whole = torch.load(path, weights_only=True)
    torch.save({**whole, "critic": state["critic"]}, path)
    with pytest.raises(OSEDiffError, match="checksum"):
        read_state(path)
    del whole["checksum"]  # control: as from before there were any
    torch.save({**whole, "critic": state["critic"]}, path)
    assert torch.equal(read_state(path)["critic"][name], state["critic"][name])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"b": 1}),
        ([1, [2]], [[1], 2]),
        (["12"], ["1", "2"]),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.zeros(1), -torch.zeros(1)),
        (0, None),
        (1.0, 1),
    ],
)
def test_a_checksum_tells_values_apart(one, other):
    assert checksum(one) != checksum(other)
    assert checksum(one) == checksum(one)


# ---- full disks -----------------------------------------------------------------------------------------


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_called_that_and_the_state_before_stands(begun, monkeypatch):
    folder = Path(begun.run.out)
    before = newest_state(folder)
    content = before.read_bytes()
    longer = replace(begun, run=replace(begun.run, steps=4))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", no_room)
        with pytest.raises(OSEDiffError) as error:
            train(longer)
    words = ["step 4", "state_0000004.pt", "No space left", "make room", f"{before} stands", "MiB"]
    assert [word for word in words if word not in str(error.value)] == []
    assert before.read_bytes() == content
    assert not list(folder.glob(".osediff-*"))
    train(longer)
    assert newest_state(folder).name == "state_0000004.pt"


def test_a_log_on_a_full_disk_says_the_same(begun, monkeypatch):
    monkeypatch.setattr(Nothing, "numbers", no_room)
    monkeypatch.setattr(Nothing, "close", no_room)
    longer = replace(begun, run=replace(begun.run, steps=5, log_every=1))
    with pytest.raises(OSEDiffError, match=r"No space left on device; make room\. .*0003\.pt stands"):
        train(longer)


def test_states_without_their_configuration_are_not_removed(begun):
    (Path(begun.run.out) / "config.toml").unlink()
    with pytest.raises(OSEDiffError, match=r"go on with it with run\.resume"):
        train(replace(begun, run=replace(begun.run, resume=False)))
    assert newest_state(Path(begun.run.out)).name == "state_0000003.pt"


# ---- processes that differ ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heard(begun_once, tmp_path_factory):
    """What two processes heard, by case: see disagree.py."""
    folder = tmp_path_factory.mktemp("ranks")
    source = Path(begun_once.run.out).parent
    shutil.copytree(source / "run", folder / "begun")
    for name in ("state_0000003.pt", "state_0000002.pt"):
        (folder / "begun" / name).unlink()
    shutil.copytree(source / "pictures", folder / "others")
    write_picture(folder / "others" / "more.png", 7)
    # One process made the states, so that two take half of its batch twice as often.
    base = replace(begun_once, run=replace(begun_once.run, steps=2, accumulation=1))
    state = read_state(folder / "begun" / "state_0000001.pt")
    write_state(folder / "begun" / "state_0000001.pt", {**state, "global_batch": 2})
    (folder / "base.toml").write_text(to_toml(base))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(Path(__file__).with_name("disagree.py")), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[:6000]
    return [json.loads((folder / f"heard_{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_the_state_of_the_first_process_is_that_of_all(heard):
    assert heard[0]["folders"] == heard[1]["folders"]
    assert heard[0]["folders"][0] == 2
    assert heard[0]["wishes"] == heard[1]["wishes"]


@pytest.mark.slow
def test_control_equal_processes_train(heard):
    assert heard[0]["nothing"] == heard[1]["nothing"]
    assert heard[0]["nothing"][0] == 2
    assert heard[0]["nothing"] != heard[0]["folders"], "the state made a difference"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("rate", ["optim.learning_rate (5e-05 in process 0, 0.5 in process 1)"]),
        ("length", ["run.steps (2 in process 0, 7 in process 1)"]),
        ("pictures", ["the training pictures ('3, checksum", "4, checksum"]),
        ("missing", ["process 1 of 2: ", "nowhere does not exist"]),
        ("weights", ["what is trained (", "in process 1"]),
        ("full", ["process 0 of 2: step 1 is not saved", "No space left"]),
    ],
)
def test_a_difference_is_one_sentence_in_every_process(heard, case, words):
    assert heard[0][case] == heard[1][case]
    assert [word for word in words if word not in heard[0][case]] == []

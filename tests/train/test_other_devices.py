"""What would break on MPS, XPU or ROCm, looked for on a CPU.

MPS has no float64, and none but CUDA has torch.cuda. So the main path runs here with torch.cuda's functions
raising, and with a watch over every tensor that would be on the device. Those devices were not run.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakIdKeyDictionary

from osediff_core import OSEDiff, restore
from osediff_core.commands.cli import main
from train.data import build_dataset
from train.engine.loop import Trainer

ROOT = Path(__file__).resolve().parents[2]


class OnDevice(TorchDispatchMode):
    """Follow marked tensors, and all that is computed with them, and refuse float64 among these.

    What is marked is their memory, so that a tensor is followed too whose parts are written one by one.
    Tensors of the host alone may be float64, as well as a number (no dimensions) that meets a marked tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self._marked = WeakIdKeyDictionary()

    def __contains__(self, tensor) -> bool:
        return tensor.untyped_storage() in self._marked

    def mark(self, *tensors):
        for tensor in tensors:
            self._marked[tensor.untyped_storage()] = True

    def leave(self, tensor):
        """What `.cpu()` does: the values, on the host."""
        copy = tensor.clone()
        self._marked.pop(copy.untyped_storage(), None)
        return copy

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        taken = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        given = [t for t in tree_flatten(out)[0] if isinstance(t, torch.Tensor)]
        if any(tensor in self for tensor in taken):
            wide = [t for t in taken if t.dtype == torch.float64 and t.ndim]
            wide += [t for t in given if t.dtype == torch.float64]
            assert not wide, f"{func} has float64 on the device"
            self.mark(*given)
        return out


@pytest.fixture
def on_device(monkeypatch):
    """The watch, in force, with `.cpu()` as the way off the device, and torch.cuda raising."""

    def stub(name):
        def called(*args, **options):
            raise AssertionError(f"torch.cuda.{name} was called where there is no CUDA")

        return called

    for name, value in list(vars(torch.cuda).items()):
        if inspect.isfunction(value) and not name.startswith("_"):
            monkeypatch.setattr(torch.cuda, name, stub(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    watch = OnDevice()
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: watch.leave(tensor))
    with watch:
        yield watch


def marked_model(on_device):
    """The demo, all of it on the device."""
    model = OSEDiff.from_pretrained(device="cpu")
    on_device.mark(*model.parameters(), *model.buffers())
    return model


def test_restoring(on_device):
    model = marked_model(on_device)
    lq = torch.rand(2, 3, 9, 14, generator=torch.Generator().manual_seed(0))
    on_device.mark(lq)
    for color in ("adain", "wavelet"):
        sr = restore(model, lq, scale=4, prompt=["a", "b"], color=color, tile=6, overlap=2)
        assert sr in on_device  # so that the watch has seen all of the way
        assert sr.dtype == torch.float32


def test_a_float64_in_the_middle_of_restoring_is_found(on_device, monkeypatch):
    model = marked_model(on_device)
    predict = OSEDiff.predict_x0
    monkeypatch.setattr(OSEDiff, "predict_x0", lambda *args: predict(*args).double().float())
    with pytest.raises(AssertionError, match="float64 on the device"):
        restore(model, torch.rand(1, 3, 4, 4), scale=2)


def test_the_command_line(on_device, tmp_path, monkeypatch):
    load = OSEDiff.from_pretrained

    def marked(*args, **options):
        model = load(*args, **options)
        on_device.mark(*model.parameters(), *model.buffers())
        return model

    monkeypatch.setattr(OSEDiff, "from_pretrained", marked)
    picture = np.arange(8 * 10 * 3, dtype=np.uint8).reshape(8, 10, 3)
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert main([str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == 0  # device and dtype are auto
    assert main(["verify", str(tmp_path), str(tmp_path)]) == 1  # nothing to pair, so nothing is loaded
    (tmp_path / "out").mkdir()
    (tmp_path / "b.png").rename(tmp_path / "out" / "a.png")
    assert main(["verify", str(tmp_path), str(tmp_path / "out")]) == 0


@pytest.mark.slow
def test_training(on_device, config, monkeypatch):
    """Two steps with everything that a run does between them, from the data loader to the checkpoint."""
    settings = config(
        run={"steps": 2, "sample_every": 1, "checkpoint_every": 1, "best_by": "psnr"},
        model={"licence": "CC0-1.0"},
    )
    dataset = build_dataset(settings.data, settings.degradation, settings.run.seed)
    trainer = Trainer(settings, dataset, Accelerator(cpu=True))
    model = trainer.backbone.model
    on_device.mark(*model.parameters(), *model.buffers())
    make = trainer.feed.batch

    def marked(sample):
        on_device.mark(sample["hq"], sample["lq"])
        made = make(sample)
        assert made.lq in on_device
        return made

    monkeypatch.setattr(trainer.feed, "batch", marked)
    assert trainer.run().is_file()


def test_the_watch_sees_float64_and_cuda(on_device):
    x, host = torch.ones(3), torch.ones(3, dtype=torch.float64)
    on_device.mark(x)
    assert (host * 2).dtype == torch.float64  # the host may
    for wrong in (lambda: x.double(), lambda: (2 * x) * host, lambda: x.mean(dtype=torch.float64)):
        with pytest.raises(AssertionError, match="float64 on the device"):
            wrong()
    assert x.cpu().double().dtype == torch.float64
    with pytest.raises(AssertionError, match=r"torch\.cuda\.synchronize"):
        torch.cuda.synchronize()


def calls_of_autocast(source):
    """The first argument of every call of something named autocast."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "autocast":
            yield node.args[0] if node.args else None


def test_autocast_takes_its_device_from_a_tensor():
    files = [path for name in ("osediff_core", "train", "nodes") for path in (ROOT / name).rglob("*.py")]
    fixed = {
        path.relative_to(ROOT).as_posix()
        for path in files
        for device in calls_of_autocast(path.read_text(encoding="utf-8"))
        if isinstance(device, ast.Constant)
    }
    assert fixed == set()
    assert isinstance(next(calls_of_autocast('with torch.autocast("cuda"): pass')), ast.Constant)

"""The command line in-process on the micro model, which is loaded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core import OSEDiff
from osediff_core.commands.cli import main

MICRO = Path(__file__).resolve().parents[2] / "golden_micro"


@pytest.fixture(scope="session")
def micro_options():
    """What names the micro model on a command line."""
    return ["--base", str(MICRO / "tiny_sd"), "--weights", str(MICRO / "osediff.pkl"), "--device", "cpu"]


@pytest.fixture(scope="session")
def model():
    return OSEDiff.from_pretrained(MICRO / "tiny_sd", MICRO / "osediff.pkl", dtype="float32", device="cpu")


@pytest.fixture
def osediff(model, monkeypatch, capsys, tmp_path):
    """Run a command in an empty folder with the model loaded once; return status and what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(OSEDiff, "from_pretrained", lambda *args, **options: model)

    def run(*argv):
        status = main(list(map(str, argv)))
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        return status, err

    return run


@pytest.fixture
def picture(tmp_path):
    """Save a small picture of smooth colours with no two pixels alike; return it as a tensor."""

    def save(name, size=(10, 8), mode="RGB"):
        width, height = size
        x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
        array = np.stack([x, y, (x + y) / 2], -1).astype(np.uint8)  # (H, W, 3)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).convert(mode).save(path)
        return torch.from_numpy(array).permute(2, 0, 1)[None]  # (1, 3, H, W)

    return save


@pytest.fixture
def size_of(tmp_path):
    """(width, height) of a picture."""

    def size(name):
        with Image.open(tmp_path / name) as image:
            return image.size

    return size


@pytest.fixture
def tree(tmp_path):
    """All files of a folder, however deep."""

    def names(folder="."):
        root = tmp_path / folder
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())

    return names

"""A share without fsync is no failure; a disk that failed is one."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from osediff_core import whole_files
from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import write_image
from osediff_core.weights.checkpoint import save_tensors
from osediff_core.whole_files import write_folder, write_together, write_whole

WRITERS = {
    "file": lambda folder: write_whole(folder / "a", b"x"),
    "picture": lambda folder: write_image(folder / "a.png", torch.zeros(1, 3, 8, 8)),
    "tensors": lambda folder: save_tensors(folder / "a", {"x": torch.zeros(2)}, {}),
    "pair": lambda folder: write_together({folder / n: lambda p: p.write_bytes(b"x") for n in ("a", "b")}),
    "folder": lambda folder: write_folder(folder / "a", lambda new: (new / "b").write_bytes(b"x")),
}


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


def answering(monkeypatch, number):
    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(whole_files.os, "fsync", fsync)


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "ENOTTY", "EPERM", "EACCES"])
def test_a_share_that_cannot_flush(tmp_path, monkeypatch, write, name):
    answering(monkeypatch, getattr(errno, name))
    write(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("a")]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EDQUOT", "ESTALE", "ETIMEDOUT"])
def test_a_disk_that_failed(tmp_path, monkeypatch, write, name):
    answering(monkeypatch, getattr(errno, name))
    with pytest.raises(OSEDiffError, match=os.strerror(getattr(errno, name))):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_share_without_modes(tmp_path, monkeypatch):
    def chmod(self, mode, **_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(whole_files.Path, "chmod", chmod)
    save_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]

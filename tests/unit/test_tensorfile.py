"""Which kind of file it is, by its first bytes."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from osediff_core.errors import OSEDiffError
from osediff_core.weights.tensorfile import TensorFile, is_torch_file


@pytest.mark.parametrize("length", [0x80, 0x280, 0x3C20, 0x0A28, 0x4B50])
def test_a_safetensors_file_is_one_whatever_its_header_is_long(tmp_path, length):
    """Its first bytes are that length: they may look like a pickle's, a web page's or a zip's."""
    place = tmp_path / "x.safetensors"
    for fill in range(max(0, length - 120), length):
        save_file({"x": torch.ones(1)}, place, {"fill": "-" * fill})
        if int.from_bytes(place.read_bytes()[:8], "little") == length:
            break
    assert int.from_bytes(place.read_bytes()[:8], "little") == length
    assert not is_torch_file(place)
    with safe_open(place, "pt") as file:
        assert TensorFile(place).metadata == file.metadata()


@pytest.mark.parametrize("layout", [True, False])
def test_both_layouts_of_torch_are_seen(tmp_path, layout):
    torch.save({"x": torch.ones(1)}, tmp_path / "x.pth", _use_new_zipfile_serialization=layout)
    assert is_torch_file(tmp_path / "x.pth")
    assert TensorFile(tmp_path / "x.pth").shapes == {"x": (1,)}


def written(path, header):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    return path


ENTRY = {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"__metadata__": ["x"], "x": ENTRY}, "is damaged"),
        ({"__metadata__": {"format": 3}, "x": ENTRY}, "is damaged"),
        ({"x": ENTRY | {"shape": [-1, -2]}}, "is damaged"),
        ({"x": ENTRY | {"shape": [2.0]}}, "is damaged"),
        ({"x": ENTRY | {"data_offsets": [0, 6]}}, "is damaged"),
        ({"x": ENTRY | {"dtype": ["F16"]}}, "is damaged"),
        ([ENTRY], "is damaged"),
        ({"x": ENTRY | {"dtype": "F4"}}, "numbers of the type F4"),
    ],
)
def test_a_header_that_cannot_be_is_one_sentence(tmp_path, header, says):
    with pytest.raises(OSEDiffError, match=says):
        TensorFile(written(tmp_path / "x.safetensors", header))


def test_a_header_without_metadata_is_none_less(tmp_path):
    file = TensorFile(written(tmp_path / "x.safetensors", {"__metadata__": None, "x": ENTRY}))
    assert (file.metadata, file.shapes, file.read("x").tolist()) == ({}, {"x": (2,)}, [0.0, 0.0])


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numbers_of_numpy_beside_the_weights_are_left_out(tmp_path, core):
    """As training leaves losses and learning rates; the module was renamed with numpy 2."""
    content = {"state_dict": {"a": torch.ones(2)}, "loss": np.float64(0.5), "history": np.ones(3)}
    torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=False)
    name = np.float64(0).__reduce__()[0].__module__.encode()
    wanted = f"numpy.{core}.multiarray".encode()
    saved = (tmp_path / "x.ckpt").read_bytes()
    assert name in saved
    (tmp_path / "x.ckpt").write_bytes(saved.replace(name, wanted))
    assert TensorFile(tmp_path / "x.ckpt").shapes == {"a": (2,)}


def test_another_callable_beside_the_weights_is_refused(tmp_path):
    """The control."""

    class Evil:
        def __reduce__(self):
            return np.savetxt, (str(tmp_path / "executed"), [1.0])

    torch.save({"state_dict": {"a": torch.ones(2)}, "loss": Evil()}, tmp_path / "x.ckpt")
    with pytest.raises(OSEDiffError, match="carries code"):
        TensorFile(tmp_path / "x.ckpt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders there")
def test_a_pipe_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(OSEDiffError, match="pipe, socket or device"):
        TensorFile(tmp_path / "a.safetensors")

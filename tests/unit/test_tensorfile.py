"""Which kind of file it is, by its first bytes."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

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

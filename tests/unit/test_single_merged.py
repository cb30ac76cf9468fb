"""A merged model in one file: what the loader reads of it is base and checkpoint, folded."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.random_base import write_vocabulary
from osediff_core import OSEDiff
from osediff_core.base.load import load_base
from osediff_core.base.marker import read_marker
from osediff_core.commands.convert import main
from osediff_core.errors import OSEDiffError
from osediff_core.tools.merged import write_single
from osediff_core.weights.tensorfile import TensorFile

UNUSED = (".logit_scale", ".text_projection")  # of OpenCLIP, in no folder of a base


@pytest.fixture(scope="module")
def single(micro, tmp_path_factory):
    """The micro model, merged into one file in float32."""
    place = tmp_path_factory.mktemp("single") / "merged.safetensors"
    write_single(place, micro / "tiny_sd", micro / "osediff.pkl", dtype=torch.float32)
    return place


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_it_reads_as_base_and_checkpoint(single, micro, micro_architecture, model, tmp_path):
    write_vocabulary(tmp_path)
    read = load_base(single, vocabulary=tmp_path, architecture=micro_architecture)
    assert same(read.unet, model.unet)
    assert same(read.vae, model.vae)
    assert same(read.load_text()[0], model.text_encoder)
    plain = OSEDiff.from_pretrained(micro / "tiny_sd", device="cpu", dtype="float32")
    assert not same(read.unet, plain.unet)
    assert not same(read.vae, plain.vae)


def test_its_names_are_those_of_the_original_code(single, micro_in_one_file):
    ours = {key: tensor.shape for key, tensor in load_file(single).items()}
    theirs = {key: tensor.shape for key, tensor in micro_in_one_file.items() if not key.endswith(UNUSED)}
    theirs = {key: shape for key, shape in theirs.items() if ".resblocks.23." not in key}
    added = ours.keys() - theirs.keys()  # the last layer, which has another number at full size
    assert {key: ours.get(key) for key in theirs} == theirs
    assert len(added) == 12
    assert len({key.partition(".resblocks.")[2].partition(".")[0] for key in added}) == 1


def test_it_is_marked_and_nothing_is_folded_into_it_again(single, micro, tmp_path):
    assert read_marker(single)["weights"] == "osediff.pkl"
    assert TensorFile(single).metadata["modelspec.prediction_type"] == "epsilon"
    with pytest.raises(OSEDiffError, match="merged into it, for good"):
        write_single(tmp_path / "again.safetensors", single, micro / "osediff.pkl")


def test_the_vae_alone_has_bare_names(micro, tmp_path, single):
    place = tmp_path / "vae.safetensors"
    command = [str(micro / "osediff.pkl"), str(place), "--to", "vae", "--base", str(micro / "tiny_sd")]
    assert main([*command, "--dtype", "float32"]) == 0
    alone, whole = load_file(place), load_file(single)
    prefix = "first_stage_model."
    assert alone.keys() == {key.removeprefix(prefix) for key in whole if key.startswith(prefix)}
    assert all(torch.equal(tensor, whole[prefix + key]) for key, tensor in alone.items())
    assert alone["encoder.mid.attn_1.q.weight"].ndim == 4


def test_the_command_writes_a_checkpoint_in_half_precision(micro, tmp_path, capsys):
    place = tmp_path / "merged.safetensors"
    command = [str(micro / "osediff.pkl"), str(place), "--to", "checkpoint"]
    assert main([*command, "--base", str(micro / "tiny_sd")]) == 0
    assert "models/checkpoints" in capsys.readouterr().err
    assert {tensor.dtype for tensor in load_file(place).values()} == {torch.float16}
    assert main(command) != 0  # no base
    assert "--base" in capsys.readouterr().err

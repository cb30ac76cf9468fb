"""The micro base in one file, under the names of the original training code, against its folder."""

import gzip
import sys
import types

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.random_base import write_vocabulary
from osediff_core.base.load import load_base
from osediff_core.base.single_file import single_file_parts
from osediff_core.base.vocabulary import PACKAGED, SIZE, sd2_tokenizer
from osediff_core.errors import OSEDiffError


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    write_vocabulary(folder)
    return folder


@pytest.fixture
def no_vocabulary(tmp_path, monkeypatch):
    """A computer with nothing in the hub's cache and neither open_clip nor clip installed."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("osediff_core.base.vocabulary.find_spec", lambda name: None)
    return tmp_path


def same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def write(path, tensors):
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        legacy = path.stem == "legacy"
        content = {"state_dict": tensors, "epoch": 3, "lr": [1e-5]}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


FILES = ("base.safetensors", "base.ckpt", "legacy.ckpt")
STORED = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        pytest.param(name, stored, marks=() if i == j else pytest.mark.slow)
        for i, name in enumerate(FILES)
        for j, stored in enumerate(STORED)
    ],
)
def test_one_file_gives_what_the_folder_gives(
    tmp_path, micro, micro_in_one_file, micro_architecture, vocabulary, name, stored
):
    file = write(tmp_path / name, {key: tensor.to(stored) for key, tensor in micro_in_one_file.items()})
    base = load_base(file, vocabulary=vocabulary, architecture=micro_architecture)
    folder = load_base(micro / "tiny_sd")
    for part, (ours, network) in {
        "unet": (base.unet, folder.unet),
        "vae": (base.vae, folder.vae),
        "text_encoder": (base.load_text()[0], folder.load_text()[0]),
    }.items():
        for parameter in network.parameters():
            parameter.data = parameter.data.to(stored).float()
        assert same(ours, network), part
    assert torch.equal(base.alphas_cumprod, folder.alphas_cumprod)


def test_a_changed_tensor_is_seen(tmp_path, micro, micro_in_one_file, micro_architecture, vocabulary):
    """The control: were two layers of equal shape exchanged by the names, this would be the same as that."""
    a, b = (f"model.diffusion_model.middle_block.{i}.in_layers.2.weight" for i in (0, 2))
    exchanged = {a: micro_in_one_file[b], b: micro_in_one_file[a]}
    file = write(tmp_path / "base.safetensors", micro_in_one_file | exchanged)
    base = load_base(file, vocabulary=vocabulary, architecture=micro_architecture)
    assert not same(base.unet, load_base(micro / "tiny_sd").unet)


def test_the_weights_outlive_the_file(tmp_path, micro_in_one_file, micro_architecture, vocabulary):
    file = write(tmp_path / "base.safetensors", micro_in_one_file)
    base = load_base(file, vocabulary=vocabulary, architecture=micro_architecture)
    before = {name: p.clone() for name, p in base.unet.named_parameters()}
    with file.open("r+b") as content:
        content.truncate(0)  # what was still mapped would end the process here
    assert all(torch.equal(p, before[name]) for name, p in base.unet.named_parameters())


def test_a_missing_tensor_is_named(tmp_path, micro_in_one_file, micro_architecture, vocabulary):
    kept = {k: v for k, v in micro_in_one_file.items() if not k.endswith("middle_block.1.norm.weight")}
    file = write(tmp_path / "base.safetensors", kept)
    with pytest.raises(OSEDiffError, match=r"unet.*base\.safetensors lacks 1 tensors.*mid_block"):
        load_base(file, vocabulary=vocabulary, architecture=micro_architecture)


def test_what_else_a_training_leaves_in_the_file_is_no_matter(
    tmp_path, micro, micro_in_one_file, micro_architecture, vocabulary
):
    flat = "diffusion_modelmiddle_block0in_layers2weight"
    more = ("model_ema.decay", f"model_ema.{flat}", "alphas_cumprod", "first_stage_model.loss.logvar")
    file = write(tmp_path / "base.safetensors", micro_in_one_file | {key: torch.zeros(2) for key in more})
    base = load_base(file, vocabulary=vocabulary, architecture=micro_architecture)
    assert same(base.unet, load_base(micro / "tiny_sd").unet)


def test_names_are_changed_without_other_libraries(
    tmp_path, micro_in_one_file, micro_architecture, monkeypatch
):
    file = write(tmp_path / "base.safetensors", micro_in_one_file)
    for library in ("diffusers", "transformers"):
        monkeypatch.setitem(sys.modules, library, None)
    for part in single_file_parts(file, micro_architecture).values():
        assert all(t.blank.is_meta and t.read().shape == t.blank.shape for t in part.tensors().values())


def test_old_training_checkpoints_that_name_one_class_are_read(tmp_path, monkeypatch):
    from osediff_core.weights.tensorfile import TensorFile

    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    with monkeypatch.context() as patch:
        for parent in ("pytorch_lightning", "pytorch_lightning.callbacks"):
            patch.setitem(sys.modules, parent, types.ModuleType(parent))
        patch.setitem(sys.modules, name, module)
        content = {"state_dict": {"a": torch.ones(2)}, "callbacks": {module.ModelCheckpoint: {"best": 1.0}}}
        torch.save(content, tmp_path / "old.ckpt")
    assert TensorFile(tmp_path / "old.ckpt").shapes == {"a": (2,)}


# ---- the vocabulary ---------------------------------------------------------------------------------


def test_words_are_padded_with_the_token_of_id_zero_and_cut(vocabulary):
    tokenizer = sd2_tokenizer(vocabulary)
    ids = tokenizer("a b", padding="max_length", truncation=True).input_ids
    assert ids[0] == SIZE - 2
    assert SIZE - 1 in ids
    assert len(ids) == 77
    assert ids[-70:] == [0] * 70
    assert tokenizer("x " * 200, truncation=True).input_ids[-1] == SIZE - 1


def test_the_packaged_list_of_merges_gives_the_same_vocabulary(tmp_path, vocabulary):
    """open_clip ships the merges alone, with more of them than CLIP uses."""
    lines = (vocabulary / "merges.txt").read_text().strip().split("\n")
    text = "\n".join(['"bpe_simple_vocab_16e6.txt#version: 0.2', *lines[1:], "q z", "z q"])
    (tmp_path / PACKAGED).write_bytes(gzip.compress(text.encode()))
    packaged, folder = sd2_tokenizer(tmp_path / PACKAGED), sd2_tokenizer(vocabulary)
    assert packaged.get_vocab() == folder.get_vocab()
    assert packaged("Ünï 42!").input_ids == folder("Ünï 42!").input_ids


def test_it_is_found_in_the_hub_cache_and_in_open_clip(no_vocabulary, vocabulary, monkeypatch):
    place = no_vocabulary / "hub" / "models--any--sd" / "snapshots" / "1" / "tokenizer"
    place.parent.mkdir(parents=True)
    place.symlink_to(vocabulary)
    assert len(sd2_tokenizer()) == SIZE
    place.unlink()
    lines = (vocabulary / "merges.txt").read_bytes()
    (no_vocabulary / PACKAGED).write_bytes(gzip.compress(lines))
    spec = types.SimpleNamespace(submodule_search_locations=[str(no_vocabulary)])
    monkeypatch.setattr(
        "osediff_core.base.vocabulary.find_spec", lambda name: spec if name == "open_clip" else None
    )
    assert len(sd2_tokenizer()) == SIZE


def test_no_vocabulary_is_one_sentence(no_vocabulary, micro_in_one_file, micro_architecture):
    file = write(no_vocabulary / "base.safetensors", micro_in_one_file)
    with pytest.raises(OSEDiffError, match=r"none was found on this computer.*osediff fetch vocabulary"):
        load_base(file, architecture=micro_architecture)
    (no_vocabulary / "vocab.json").write_text("{}")
    with pytest.raises(OSEDiffError, match=r"the folder .* has none"):
        load_base(file, architecture=micro_architecture, vocabulary=no_vocabulary)


def test_another_models_vocabulary_is_refused(micro, tmp_path):
    with pytest.raises(OSEDiffError, match="has none"):
        sd2_tokenizer(micro / "tiny_sd" / "tokenizer")


# ---- the hub's cache --------------------------------------------------------------------------------


def test_a_model_in_the_hub_cache_is_a_base_by_its_id(no_vocabulary, micro):
    place = no_vocabulary / "hub" / "models--owner--sd21-base"
    (place / "snapshots").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    (place / "snapshots" / "abc").symlink_to(micro / "tiny_sd")
    assert load_base("owner/sd21-base").unet.conv_in.out_channels == 8
    with pytest.raises(OSEDiffError, match=r"no base at other/model.*osediff fetch base"):
        load_base("other/model")


def test_a_half_fetched_model_says_what_it_lacks(no_vocabulary):
    folder = no_vocabulary / "hub" / "models--owner--sd21-base" / "snapshots" / "abc"
    (folder / "unet").mkdir(parents=True)
    with pytest.raises(OSEDiffError, match="lacks the folders vae"):
        load_base("owner/sd21-base")


def test_nothing_asks_the_network(
    no_vocabulary, micro_in_one_file, micro_architecture, vocabulary, monkeypatch
):
    import socket

    def refuse(*arguments, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    file = write(no_vocabulary / "base.safetensors", micro_in_one_file)
    load_base(file, vocabulary=vocabulary, architecture=micro_architecture)
    with pytest.raises(OSEDiffError, match="no base at"):
        load_base("stabilityai/stable-diffusion-2-1-base")

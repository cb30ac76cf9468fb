import os
import pickle
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from osediff_core import OSEDiff
from osediff_core.errors import OSEDiffError
from osediff_core.weights.checkpoint import Checkpoint, read_checkpoint, write_checkpoint, write_published


@pytest.fixture
def published(micro):
    return read_checkpoint(micro / "osediff.pkl")


def random_checkpoint(rank, alpha):
    torch.manual_seed(rank)
    unet = {
        "conv_in.weight": torch.randn(8, 4, 3, 3),
        "conv_in.bias": torch.randn(8),
        "mid_block.attentions.0.proj_in.lora_A.weight": torch.randn(rank, 16),
        "mid_block.attentions.0.proj_in.lora_B.weight": torch.randn(16, rank),
    }
    vae = {
        "quant_conv.lora_A.weight": torch.randn(rank, 8, 1, 1),
        "quant_conv.lora_B.weight": torch.randn(8, rank, 1, 1),
    }
    return Checkpoint(unet, vae, rank, alpha, rank, alpha, {"base": "micro", "steps": "12"})


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_published_checkpoint_has_scale_2(published):
    assert (published.rank_unet, published.rank_vae) == (4, 4)
    assert (published.scale_unet, published.scale_vae) == (2.0, 2.0)
    assert "conv_in.weight" in published.unet
    assert not [k for k in published.unet if "base_layer" in k or "default" in k]


@pytest.mark.parametrize("rank", [2, 4, 8, 16])
def test_ours_comes_back_as_it_was(tmp_path, rank):
    checkpoint = random_checkpoint(rank, alpha=float(rank))
    write_checkpoint(tmp_path / "c.safetensors", checkpoint)
    back = read_checkpoint(tmp_path / "c.safetensors")
    assert same(back.unet, checkpoint.unet)
    assert same(back.vae, checkpoint.vae)
    assert replace(back, unet={}, vae={}) == replace(checkpoint, unet={}, vae={})


@pytest.mark.parametrize("rank", [2, 4, 8, 16])
@pytest.mark.parametrize("alpha", [8.0, 4.0, 12.0])
def test_through_the_published_layout_the_weights_mean_the_same(tmp_path, rank, alpha):
    checkpoint = random_checkpoint(rank, alpha)
    write_published(tmp_path / "c.pkl", checkpoint)
    back = read_checkpoint(tmp_path / "c.pkl")
    assert (back.rank_unet, back.alpha_unet) == (rank, 8.0)
    assert torch.equal(back.unet["conv_in.weight"], checkpoint.unet["conv_in.weight"])
    for key, b in {**back.unet, **back.vae}.items():
        if key.endswith("lora_B.weight"):
            old = {**checkpoint.unet, **checkpoint.vae}[key]
            assert torch.allclose(back.scale_unet * b, checkpoint.scale_unet * old, rtol=1e-6)


def test_published_layout_comes_back_byte_for_byte(tmp_path, micro, published):
    write_published(tmp_path / "c.pkl", published)
    ours, theirs = (torch.load(f, weights_only=True) for f in (tmp_path / "c.pkl", micro / "osediff.pkl"))
    assert list(ours) == list(theirs)
    assert same(ours["state_dict_unet"], theirs["state_dict_unet"])
    assert same(ours["state_dict_vae"], theirs["state_dict_vae"])
    for part in ("encoder", "decoder", "others"):
        assert ours[f"unet_lora_{part}_modules"] == theirs[f"unet_lora_{part}_modules"]
    assert ours["vae_lora_encoder_modules"] == list(dict.fromkeys(theirs["vae_lora_encoder_modules"]))


def test_published_layout_needs_conv_in(tmp_path, published):
    bare = replace(published, unet={k: v for k, v in published.unet.items() if "lora" in k})
    with pytest.raises(OSEDiffError, match="conv_in"):
        write_published(tmp_path / "c.pkl", bare)
    assert not list(tmp_path.iterdir())


def test_our_file_loads_into_the_same_model(tmp_path, micro, published, model):
    write_checkpoint(tmp_path / "c.safetensors", published)
    again = OSEDiff.from_pretrained(
        micro / "tiny_sd", tmp_path / "c.safetensors", dtype="float32", device="cpu"
    )
    assert same(again.state_dict(), model.state_dict())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("through", ["torch", "pickle"])
def test_code_in_a_pickle_is_named_and_never_executed(tmp_path, monkeypatch, protocol, through):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict_unet": {}, "extra": Evil()}
    if through == "torch":
        torch.save(content, "c.pkl", pickle_protocol=max(protocol, 2))
    else:
        (tmp_path / "c.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(OSEDiffError, match="code"):
        read_checkpoint("c.pkl")
    assert not (tmp_path / "executed").exists()


def half(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("name", ["c.safetensors", "c.pkl"])
@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda path: path.unlink(), "no checkpoint at"),
        (lambda path: path.write_bytes(b""), "empty"),
        (half, "damaged|cut off"),
        (lambda path: path.write_bytes(b"hello " * 1000), "damaged"),
        (lambda path: path.write_bytes(b"{}"), "damaged"),
    ],
    ids=["missing", "empty", "truncated", "text", "short"],
)
def test_spoilt_files_are_sentences(tmp_path, name, spoil, word, published):
    (write_published if name.endswith("pkl") else write_checkpoint)(tmp_path / name, published)
    spoil(tmp_path / name)
    with pytest.raises(OSEDiffError, match=word) as caught:
        read_checkpoint(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_and_another_suffix_are_refused(tmp_path):
    with pytest.raises(OSEDiffError, match="no checkpoint at"):
        read_checkpoint(tmp_path)
    (tmp_path / "c.gguf").write_bytes(b"x")
    with pytest.raises(OSEDiffError, match=r"\.safetensors or \.pkl"):
        read_checkpoint(tmp_path / "c.gguf")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"state_dict": {}}, "no OSEDiff checkpoint"),
        ([1, 2], "no OSEDiff checkpoint"),
        (torch.ones(3), "no OSEDiff"),
    ],
)
def test_other_torch_files_are_no_checkpoints(tmp_path, content, word):
    torch.save(content, tmp_path / "c.pkl")
    with pytest.raises(OSEDiffError, match=word):
        read_checkpoint(tmp_path / "c.pkl")


def test_other_safetensors_are_no_checkpoints(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "c.safetensors")
    with pytest.raises(OSEDiffError, match="format=osediff"):
        read_checkpoint(tmp_path / "c.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "c.safetensors", {"format": "osediff", "format_version": "7"})
    with pytest.raises(OSEDiffError, match=r"version 7.*update"):
        read_checkpoint(tmp_path / "c.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "c.safetensors", {"format": "osediff", "format_version": "1"})
    with pytest.raises(OSEDiffError, match="rank"):
        read_checkpoint(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    ("part", "key", "value", "word"),
    [
        ("unet", "mid_block.attentions.0.proj_in.lora_B.weight", None, "half of its LoRA"),
        ("vae", "encoder.conv_in.lora_A.weight", torch.zeros(4, 3, 3, 3), "half of its LoRA"),
        ("unet", "conv_in.bias", torch.full((8,), torch.nan), "not numbers"),
        ("unet", "conv_in.bias", torch.zeros(8, dtype=torch.int64), "in int64"),
        ("vae", "quant_conv.lora_A.weight", torch.zeros(3, 8, 1, 1), "says rank 4"),
    ],
)
def test_incomplete_checkpoints_name_the_key(tmp_path, part, key, value, word):
    checkpoint = random_checkpoint(4, 8.0)
    tensors = dict(getattr(checkpoint, part))
    tensors[key] = value
    tensors = {k: v for k, v in tensors.items() if v is not None}
    write_checkpoint(tmp_path / "c.safetensors", replace(checkpoint, **{part: tensors}))
    with pytest.raises(OSEDiffError, match=word):
        read_checkpoint(tmp_path / "c.safetensors")


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_checkpoint_without_one_part_is_incomplete(tmp_path, part):
    write_checkpoint(tmp_path / "c.safetensors", replace(random_checkpoint(4, 8.0), **{part: {}}))
    with pytest.raises(OSEDiffError, match="incomplete"):
        read_checkpoint(tmp_path / "c.safetensors")


@pytest.mark.parametrize("write", [write_checkpoint, write_published])
def test_others_may_read_a_checkpoint_as_they_may_any_file(tmp_path, published, write):
    write(tmp_path / "c", published)
    (tmp_path / "any").touch()
    assert (tmp_path / "c").stat().st_mode == (tmp_path / "any").stat().st_mode


@contextmanager
def full_disk():
    """Let no file of this process grow beyond 4 kB, which fails as a full disk does.

    Not as a fixture: pytest writes its report before it takes a fixture back, and that may be a long file.
    """
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX file size limit")
@pytest.mark.parametrize("write", [write_checkpoint, write_published])
def test_a_full_disk_keeps_the_old_file_and_leaves_no_rest(tmp_path, published, write):
    path = tmp_path / "c"
    path.write_bytes(b"the old one")
    with full_disk(), pytest.raises(OSEDiffError, match="could not be written"):
        write(path, published)
    assert path.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("write", [write_checkpoint, write_published])
def test_a_missing_folder_is_a_sentence(tmp_path, published, write):
    with pytest.raises(OSEDiffError, match="could not be written"):
        write(tmp_path / "none" / "c", published)

"""Files that are no base, known by their headers; of full size where size is the point, and mostly holes."""

import json
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.random_base import empty, single_file
from osediff_core.base.load import load_base
from osediff_core.errors import OSEDiffError
from osediff_core.lora import unet_targets, vae_targets
from osediff_core.weights.recognise import SD2, V_SIGN, name_of
from osediff_core.weights.tensorfile import TensorFile

UNET, TEXT = "model.diffusion_model.", "cond_stage_model.model."


@pytest.fixture(scope="module")
def sd2():
    """Names and shapes of a full-size single file."""
    parts = {part: dict(empty(part).state_dict()) for part in ("unet", "vae", "text_encoder")}
    return {key: tuple(tensor.shape) for key, tensor in single_file(parts)}


def write_hollow(path, shapes, values=(), metadata=None, dtype="F16"):
    """Write a .safetensors file of these shapes whose values are holes of the file system, but for some."""
    header, end = {}, 0
    for key, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header | ({"__metadata__": metadata} if metadata else {})).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for key, tensor in dict(values).items():
            file.seek(8 + len(text) + header[key]["data_offsets"][0])
            file.write(tensor.half().numpy().tobytes())
    return path


def changed(shapes, **new):
    return shapes | {UNET + key.replace("__", "."): shape for key, shape in new.items()}


def narrower(shapes, width):
    """The same UNet with another text width."""
    attends = re.compile(r"attn2\.to_[kv]\.weight")
    return {k: (s[0], width) if attends.search(k) else s for k, s in shapes.items()}


def test_a_full_size_single_file_is_a_possible_base(sd2):
    assert len(sd2) > 1000
    assert name_of(sd2) == SD2


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [True, False])
def test_velocity_is_told_by_the_spread_of_one_tensor(tmp_path, sd2, epsilon):
    """The limit is 0.09; the two values here are on both sides of it, and the rest of the file is holes."""
    sign = torch.tensor([0.05, -0.05] if epsilon else [0.12, -0.12]).repeat(160)
    file = write_hollow(tmp_path / "v2.safetensors", sd2, {V_SIGN: sign})
    words = "vocabulary" if epsilon else r"768 px.*velocity.*v2-1_512"
    with pytest.raises(OSEDiffError, match=words):
        load_base(file, vocabulary=tmp_path)


def test_what_the_file_says_of_itself_goes_before_the_spread(tmp_path, sd2):
    says = {"modelspec.prediction_type": "v"}
    file = write_hollow(tmp_path / "v2.safetensors", sd2, metadata=says)
    with pytest.raises(OSEDiffError, match="velocity"):
        load_base(file, vocabulary=tmp_path)


def cases(sd2):
    conv_in = "input_blocks__0__0__weight"
    rest = {k: s for k, s in sd2.items() if k.startswith(UNET)}
    old_text = {"cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 768)}
    no_text = {k: s for k, s in sd2.items() if not k.startswith(TEXT)}
    return {
        "Stable Diffusion 1,": narrower(no_text, 768) | old_text,
        "Stable Diffusion 1 for inpainting": changed(
            narrower(no_text, 768) | old_text, **{conv_in: (320, 9, 3, 3)}
        ),
        "Stable Diffusion 2 for inpainting": changed(sd2, **{conv_in: (320, 9, 3, 3)}),
        "Stable Diffusion 2 for depth maps": changed(sd2, **{conv_in: (320, 5, 3, 3)}),
        "Stable unCLIP": changed(sd2, label_emb__0__0__weight=(1280, 2048)),
        "Stable Diffusion XL,": rest | {"conditioner.embedders.0.a": (1,), "conditioner.embedders.1.a": (1,)},
        "refiner": rest | {"conditioner.embedders.0.model.ln_final.weight": (1280,)},
        "Stable Diffusion 3": {UNET + "joint_blocks.0.context_block.attn.qkv.weight": (4608, 1536)},
        "Flux": {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)},
        "a LoRA": {"lora_unet_down_blocks_0.lora_down.weight": (4, 320)},
        "a VAE alone": {"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.conv_in.weight": (512, 4, 3, 3)},
        "a UNet alone": rest,
        "a text encoder alone": {"text_model.encoder.layers.0.mlp.fc1.weight": (4096, 1024)},
        "a ControlNet": {"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)},
        "without its VAE": {k: s for k, s in sd2.items() if not k.startswith("first_stage")},
        "without its text encoder": no_text,
        "has no tensors": {},
        "unknown kind": {"weight": (3, 3)},
    }


def test_other_models_are_named(tmp_path, sd2):
    for words, shapes in cases(sd2).items():
        file = write_hollow(tmp_path / "model.safetensors", shapes)
        with pytest.raises(OSEDiffError, match=words) as caught:
            load_base(file, vocabulary=tmp_path)
        assert "2.1-base" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("unet", "words"),
    [
        ({"cross_attention_dim": 768, "block_out_channels": [320, 640, 1280, 1280]}, "Stable Diffusion 1 "),
        ({"cross_attention_dim": 2048}, "Stable Diffusion XL"),
        ({"cross_attention_dim": 1024, "in_channels": 9}, "Stable Diffusion 2 for inpainting"),
        ({"cross_attention_dim": 1024, "in_channels": 7}, "upscaler"),
    ],
)
def test_a_folder_of_another_model_is_named_by_its_configs_alone(tmp_path, unet, words):
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{}")
    (tmp_path / "unet" / "config.json").write_text(json.dumps(unet))
    with pytest.raises(OSEDiffError, match=words):
        load_base(tmp_path)


def damaged(path, how):
    save_file({"a": torch.ones(1000), "b": torch.ones(10)}, path)
    content = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "three bytes": content[:3],
            "within the header": content[:60],
            "half": content[: len(content) // 2],
            "a web page": b"<!DOCTYPE html><html>Please log in</html>",
            "git lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5214604494\n",
            "huge header": (1 << 40).to_bytes(8, "little") + content[8:],
            "no json": content[:8] + b"x" * (len(content) - 8),
            "wrong shape": content.replace(b"[1000]", b"[1001]"),
            "half a zip": b"PK\x03\x04" + b"\0" * 100,
        }[how]
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("empty", "0 bytes"),
        ("three bytes", "damaged"),
        ("within the header", "cut off"),
        ("half", "cut off: it has .* bytes"),
        ("a web page", "web page"),
        ("git lfs", "git lfs pull"),
        ("huge header", "damaged"),
        ("no json", "damaged"),
        ("wrong shape", "damaged"),
        ("half a zip", "damaged"),
    ],
)
def test_damaged_files_are_sentences(tmp_path, suffix, how, words):
    file = tmp_path / f"base{suffix}"
    damaged(file, how)
    with pytest.raises(OSEDiffError, match=words) as caught:
        load_base(file, vocabulary=tmp_path)
    assert "\n" not in str(caught.value)


class Shell:
    def __reduce__(self):
        import os

        return os.system, ("touch pwned",)


def test_a_ckpt_with_code_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "callbacks": Shell()}, "zip.ckpt")
    with open("old.ckpt", "wb") as file:
        pickle.dump(Shell(), file, protocol=2)
    for name in ("zip.ckpt", "old.ckpt"):
        with pytest.raises(OSEDiffError, match="not executed"):
            load_base(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


def test_values_are_read_where_they_are_even_when_unaligned(tmp_path):
    """A format without padding may put a float32 at any byte."""
    header = {"a": ["U8", [3], 0, 3], "b": ["F32", [2], 3, 11]}
    text = json.dumps(
        {k: {"dtype": d, "shape": s, "data_offsets": [i, j]} for k, (d, s, i, j) in header.items()}
    )
    text = text.encode()
    numbers = torch.tensor([1.5, -2.0])
    content = len(text).to_bytes(8, "little") + text + bytes([1, 2, 3]) + numbers.numpy().tobytes()
    (tmp_path / "x.safetensors").write_bytes(content)
    file = TensorFile(tmp_path / "x.safetensors")
    assert torch.equal(file.read("b"), numbers)
    assert file.read("a").tolist() == [1, 2, 3]


def test_the_full_size_base_carries_as_many_lora_layers_as_the_published_checkpoint_lists():
    groups = {name: len(names) for name, names in unet_targets(empty("unet")).items()}
    assert groups == {"default_encoder": 94, "default_decoder": 148, "default_others": 16}
    assert len(vae_targets(empty("vae"))) == 32

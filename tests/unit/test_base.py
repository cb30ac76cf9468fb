import json
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from osediff_core import OSEDiff
from osediff_core.base.load import load_base, resolve_device, resolve_dtype
from osediff_core.errors import OSEDiffError
from osediff_core.network.config import UNetConfig, read_config
from osediff_core.network.unet import UNet


@pytest.fixture
def base(tmp_path, micro):
    """A copy of the micro base that may be spoilt."""
    shutil.copytree(micro / "tiny_sd", tmp_path / "base")
    return tmp_path / "base"


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_parts_are_frozen_and_in_evaluation_mode(model):
    assert not [m for m in model.modules() if m.training]
    assert not [p for p in model.parameters() if p.requires_grad]


def test_loading_says_nothing(capfd, micro):
    load_base(micro / "tiny_sd")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_v_prediction_base_is_refused_before_anything_is_loaded(base):
    shutil.rmtree(base / "unet")
    (base / "unet").mkdir()
    edit(base / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    with pytest.raises(OSEDiffError, match=r"v-prediction.*2\.1-base"):
        load_base(base)


@pytest.mark.parametrize("folder", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_folder_is_named(base, folder):
    shutil.rmtree(base / folder)
    with pytest.raises(OSEDiffError, match=f"lacks the folders {folder}"):
        load_base(base)


def test_no_base_is_a_sentence_that_names_the_ways_to_one(tmp_path):
    for name in (tmp_path / "nowhere", "owner/model", "no id at all"):
        with pytest.raises(OSEDiffError, match=r"no base at .*osediff fetch base"):
            load_base(name)


WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "one tensor gone", "other width"])
def test_a_damaged_part_is_named_in_one_line(base, part, how):
    file = base / part / WEIGHTS[part]
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    elif how == "empty":
        os.truncate(file, 0)
    else:
        tensors = load_file(file)
        key = sorted(tensors)[3]
        tensors[key] = torch.zeros(3, *tensors[key].shape[1:])
        if how == "one tensor gone":
            del tensors[key]
        save_file(tensors, file, {"format": "pt"})
    with pytest.raises(OSEDiffError, match=part) as caught:
        load_base(base)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "file", ["unet/config.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json"]
)
@pytest.mark.parametrize("content", ["", "{", None])
def test_a_damaged_config_is_named(base, file, content):
    if content is None:
        (base / file).unlink()
    else:
        (base / file).write_text(content)
    with pytest.raises(OSEDiffError, match=file.split("/")[0]):
        load_base(base)


def test_configs_of_any_editor_are_read(base):
    for file in ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"):
        content = (base / file).read_bytes()
        (base / file).write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    load_base(base)
    (base / "unet" / "config.json").write_text("{}", encoding="utf-16")
    with pytest.raises(OSEDiffError, match="UTF-16"):
        load_base(base)


def test_an_inpainting_unet_is_refused(base):
    file = base / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.weight"] = torch.zeros(8, 9, 3, 3)
    save_file(tensors, file, {"format": "pt"})
    edit(base / "unet" / "config.json", in_channels=9)
    with pytest.raises(OSEDiffError, match=r"9 channels.*inpainting"):
        load_base(base)


@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
@pytest.mark.parametrize("wanted", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_are_stored_and_wanted_in_any_precision(base, stored, wanted):
    for part in ("unet", "vae"):
        file = base / part / WEIGHTS[part]
        save_file({k: v.to(stored) for k, v in load_file(file).items()}, file, {"format": "pt"})
    seen = {}

    def edit(part, network):
        assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
        return lambda name, tensor: seen.setdefault((part, name), tensor).float()

    loaded = load_base(base, wanted, edit=edit)
    assert {tensor.dtype for tensor in seen.values()} == {stored}
    assert {name for part, name in seen if part == "vae"} == set(loaded.vae.state_dict())
    for module in (loaded.unet, loaded.vae, loaded.load_text()[0]):
        exact = {name for name, p in module.named_parameters() if p.dtype != wanted}
        assert not [name for name in exact if not name.startswith(("conv_norm_out.", "conv_out."))]
        assert len(exact) == (4 if module is loaded.unet and wanted != torch.float32 else 0)


def test_a_base_with_fp16_files_only_is_found(base):
    for part, name in WEIGHTS.items():
        (base / part / name).rename(base / part / name.replace(".safetensors", ".fp16.safetensors"))
    assert load_base(base).unet.conv_in.out_channels == 8


def test_device_and_dtype_auto():
    device = resolve_device("auto")
    assert device.type in ("cuda", "xpu", "mps", "cpu")
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == torch.float16
    assert resolve_dtype("bf16", torch.device("cpu")) == torch.bfloat16
    assert resolve_dtype(torch.float16, torch.device("cpu")) == torch.float16


@pytest.mark.parametrize("dtype", ["float8", "int8", torch.int32])
def test_other_dtypes_are_sentences(dtype):
    with pytest.raises(OSEDiffError, match="float16"):
        resolve_dtype(dtype, torch.device("cpu"))


def test_devices_that_are_not_there_are_sentences():
    with pytest.raises(OSEDiffError, match="device is auto"):
        resolve_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(OSEDiffError, match="no cuda"):
            resolve_device("cuda")


def test_weights_alone_name_the_base_that_they_need(micro):
    with pytest.raises(OSEDiffError, match=r"Stable Diffusion 2\.1-base"):
        OSEDiff.from_pretrained(weights=micro / "osediff.pkl")


def test_a_base_alone_is_the_plain_base(micro, model):
    plain = OSEDiff.from_pretrained(micro / "tiny_sd", dtype="float32", device="cpu")
    stored = load_file(micro / "tiny_sd" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(stored[k], v) for k, v in plain.unet.state_dict().items())
    assert not torch.equal(plain.unet.conv_in.weight, model.unet.conv_in.weight)


def test_a_checkpoint_for_another_base_names_its_first_keys(base, micro):
    small = {"block_out_channels": [8, 8, 16, 24]}
    edit(base / "unet" / "config.json", **small)
    config = read_config(UNetConfig, json.loads((base / "unet" / "config.json").read_text()))
    save_file(UNet(config).state_dict(), base / "unet" / WEIGHTS["unet"], {"format": "pt"})
    with pytest.raises(OSEDiffError, match=r"does not fit this base.*down_blocks\.3.*where the base needs"):
        OSEDiff.from_pretrained(base, micro / "osediff.pkl", device="cpu")


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number_is_a_sentence(micro, strength):
    with pytest.raises(OSEDiffError, match="strength"):
        OSEDiff.from_pretrained(micro / "tiny_sd", micro / "osediff.pkl", strength=strength)


def test_a_missing_library_is_a_sentence(micro, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(OSEDiffError, match=r"transformers.*install the requirements"):
        load_base(micro / "tiny_sd")

"""The published layout at full size: what ours writes has its keys in its order, its names, its shapes."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.random_base import empty
from osediff_core.lora import unet_group, unet_targets, vae_targets
from osediff_core.weights.checkpoint import Checkpoint, read_checkpoint, write_published


def zeros(module, names, rank):
    shapes = {name: p.shape for name, p in module.named_parameters()}
    tensors = {}
    for name in names:
        out, *rest = shapes[f"{name}.weight"]
        tensors[f"{name}.lora_A.weight"] = torch.zeros(rank, *rest)
        tensors[f"{name}.lora_B.weight"] = torch.zeros(out, rank, *(1,) * (len(rest) - 1))
    return tensors


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What a full-size checkpoint of rank 4 looks like as a published file."""
    unet, vae = empty("unet"), empty("vae")
    names = [name for group in unet_targets(unet).values() for name in group]
    conv_in = {"conv_in.weight": torch.zeros(320, 4, 3, 3), "conv_in.bias": torch.zeros(320)}
    file = tmp_path_factory.mktemp("layout") / "osediff.pkl"
    write_published(
        file,
        Checkpoint(conv_in | zeros(unet, names, 4), zeros(vae, vae_targets(vae), 4), 4, 8.0, 4, 8.0),
    )
    return file


def layout(content):
    """Names and shapes alone."""
    return {
        key: {name: list(t.shape) for name, t in value.items()} if isinstance(value, dict) else value
        for key, value in content.items()
    }


def test_a_full_size_file_has_the_published_number_of_everything(written):
    content = torch.load(written, weights_only=True)
    assert list(content) == [
        *("vae_lora_encoder_modules", "unet_lora_encoder_modules", "unet_lora_decoder_modules"),
        *("unet_lora_others_modules", "rank_unet", "rank_vae", "state_dict_unet", "state_dict_vae"),
    ]
    assert [len(content[f"unet_lora_{part}_modules"]) for part in ("encoder", "decoder", "others")] == [
        94,
        148,
        16,
    ]
    assert (len(content["state_dict_unet"]), len(content["state_dict_vae"])) == (518, 64)
    assert sum(t.numel() for t in content["state_dict_unet"].values()) == 4_055_712 + 11_840
    assert sum(t.numel() for t in content["state_dict_vae"].values()) == 369_356
    assert 17.5e6 < written.stat().st_size < 18.5e6
    back = read_checkpoint(written)
    assert {unet_group(key) for key in back.unet} == {"default_encoder", "default_decoder", "default_others"}


def test_a_full_size_file_has_the_published_names_and_shapes(written, large_folder):
    """All but the order of tensors and the modules that the published lists repeat."""
    published = json.loads((large_folder() / "osediff_full_size_layout.json").read_text())
    published["vae_lora_encoder_modules"] = list(dict.fromkeys(published["vae_lora_encoder_modules"]))
    ours = layout(torch.load(written, weights_only=True))
    assert ours == published
    published["state_dict_unet"].popitem()
    assert ours != published  # the control

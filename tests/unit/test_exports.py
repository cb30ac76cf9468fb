"""The files for stock ComfyUI: names as ComfyUI has them, and what its arithmetic makes of them."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks.random_base import empty
from osediff_core.errors import OSEDiffError
from osediff_core.lora import lora_delta, unet_targets, vae_targets
from osediff_core.tools.exports import (
    CONV_IN_BIAS,
    unet_lora,
    vae_name,
    vae_patch,
    write_unet_lora,
    write_vae_patch,
)
from osediff_core.weights.checkpoint import Checkpoint, read_checkpoint

from .folding import fold

SET = {"conv_in.weight": "lora_unet_conv_in.set_weight", "conv_in.bias": CONV_IN_BIAS}


@pytest.fixture
def published(micro):
    return read_checkpoint(micro / "osediff.pkl")


@pytest.fixture(scope="module")
def plain(micro):
    """The micro base without any checkpoint."""
    from osediff_core import OSEDiff

    return OSEDiff.from_pretrained(micro / "tiny_sd", dtype="float32", device="cpu")


def modules(tensors):
    return {key.removesuffix(".alpha") for key in tensors if key.endswith(".alpha")}


def as_loraloader_does(module, tensors, names, strength):
    """Patch a copy of a module: low-rank pairs and differences follow the strength, "set" does not."""
    patched = copy.deepcopy(module)
    left = set(tensors)
    for key, parameter in patched.named_parameters():
        name = names(key.removesuffix(".weight"))
        up, down, alpha = (f"{name}.{kind}" for kind in ("lora_up.weight", "lora_down.weight", "alpha"))
        if key.endswith(".weight") and up in tensors:
            scale = tensors[alpha].item() / len(tensors[down])
            parameter.data += strength * lora_delta(tensors[down], tensors[up], scale, parameter.shape)
            left -= {up, down, alpha}
        if f"{name}.diff" in tensors:
            parameter.data += strength * tensors[f"{name}.diff"]
            left.discard(f"{name}.diff")
        if key == "conv_in.bias" and "lora_unet_conv_in.diff_b" in tensors:
            parameter.data += strength * tensors["lora_unet_conv_in.diff_b"]
            left.discard("lora_unet_conv_in.diff_b")
        for place, kind in (
            ("conv_in.weight", "lora_unet_conv_in.set_weight"),
            ("conv_in.bias", CONV_IN_BIAS),
        ):
            if key == place and kind in tensors:
                parameter.data.copy_(tensors[kind])
                left.discard(kind)
    assert left == set(), "a key that no parameter took"
    return patched


def unet_name(module):
    return "lora_unet_" + module.replace(".", "_")


def folded(module, tensors, scale, strength):
    out = copy.deepcopy(module)
    fold(out, tensors, scale, strength=strength)
    return dict(out.named_parameters())


def conv_in_of(unet):
    return {f"conv_in.{kind}": value.detach() for kind, value in unet.conv_in.named_parameters()}


@pytest.mark.parametrize(("with_base", "strength"), [(True, 1.0), (True, 0.6), (False, 1.0)])
def test_the_lora_makes_the_same_unet_as_folding(plain, published, with_base, strength):
    tensors = unet_lora(published, conv_in_of(plain.unet) if with_base else None)
    want = folded(plain.unet, published.unet, published.scale_unet, strength)
    got = as_loraloader_does(plain.unet, tensors, unet_name, strength)
    for key, parameter in got.named_parameters():
        torch.testing.assert_close(parameter, want[key], rtol=1e-6, atol=1e-6)
    doubled = {key: t * 2 if key.endswith(".alpha") else t for key, t in tensors.items()}
    wrong = as_loraloader_does(plain.unet, doubled, unet_name, strength)  # the control
    assert max((p - want[key]).abs().max() for key, p in wrong.named_parameters()) > 1e-2


def test_without_the_base_conv_in_ignores_the_strength(plain, published):
    half = as_loraloader_does(plain.unet, unet_lora(published), unet_name, 0.5)
    whole = folded(plain.unet, published.unet, published.scale_unet, 1.0)
    assert torch.allclose(half.conv_in.weight, whole["conv_in.weight"], atol=1e-6)
    assert not torch.allclose(half.conv_out.weight, whole["conv_out.weight"], atol=1e-3)


def test_a_checkpoint_that_left_conv_in_alone_has_only_pairs(published):
    bare = replace(published, unet={k: t for k, t in published.unet.items() if "lora" in k})
    tensors = unet_lora(bare)
    assert "lora_unet_conv_in" in modules(tensors)
    assert all(re.search(r"\.(lora_up\.weight|lora_down\.weight|alpha)$", key) for key in tensors)


def test_conv_in_that_equals_the_base_leaves_its_lora(plain, published):
    same = replace(published, unet=published.unet | conv_in_of(plain.unet))
    tensors = unet_lora(same, conv_in_of(plain.unet))
    assert tensors["lora_unet_conv_in.diff_b"].abs().max() == 0
    a, b = (same.unet[f"conv_in.lora_{side}.weight"] for side in "AB")
    delta = lora_delta(a, b, same.scale_unet, plain.unet.conv_in.weight.shape)
    assert torch.allclose(tensors["lora_unet_conv_in.diff"], delta, atol=1e-7)


def test_the_vae_patch_makes_the_same_encoder_as_folding(plain, published):
    got = as_loraloader_does(plain.vae, vae_patch(published), vae_name, 1.0)
    want = folded(plain.vae, published.vae, published.scale_vae, 1.0)
    for key, parameter in got.named_parameters():
        torch.testing.assert_close(parameter, want[key], rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def full_size():
    return empty("unet"), empty("vae")


def test_the_vae_names_are_those_of_comfyuis_encoder(full_size):
    down = [f"encoder.down.{i}.block.{j}.conv{k}" for i in range(4) for j in (0, 1) for k in (1, 2)]
    down += [f"encoder.down.{i}.block.0.nin_shortcut" for i in (1, 2)]
    down += [f"encoder.down.{i}.downsample.conv" for i in range(3)]
    middle = [f"encoder.mid.block_{i}.conv{k}" for i in (1, 2) for k in (1, 2)]
    middle += [f"encoder.mid.attn_1.{name}" for name in ("q", "k", "v", "proj_out")]
    rest = ["encoder.conv_in", "encoder.conv_out", "quant_conv"]
    names = [vae_name(module) for module in vae_targets(full_size[1])]
    assert len(names) == 32
    assert sorted(names) == sorted(down + middle + rest)


def test_all_258_modules_of_the_full_size_unet_have_names_of_their_own(full_size):
    names = [n for group in unet_targets(full_size[0]).values() for n in group]
    shapes = {name: p.shape for name, p in full_size[0].named_parameters()}
    tensors = {"conv_in.weight": torch.empty(shapes["conv_in.weight"]), "conv_in.bias": torch.empty(320)}
    for name in names:
        tensors[f"{name}.lora_A.weight"] = torch.empty(4, *shapes[f"{name}.weight"][1:])
        tensors[f"{name}.lora_B.weight"] = torch.empty(shapes[f"{name}.weight"][0], 4)
    lora = unet_lora(Checkpoint(tensors, {}, 4, 8.0, 4, 8.0))
    assert len(modules(lora)) == 257
    assert len(lora) == 257 * 3 + 2
    assert modules(lora) == {unet_name(name) for name in names if name != "conv_in"}


def test_both_files_say_what_they_are(tmp_path, published):
    named = replace(published, metadata={"base": "micro", "format": "something else"})
    write_unet_lora(tmp_path / "u.safetensors", named)
    write_vae_patch(tmp_path / "v.safetensors", named)
    for name, part in (("u", "unet"), ("v", "vae")):
        with safe_open(tmp_path / f"{name}.safetensors", "pt") as file:
            metadata = file.metadata()
        assert metadata == {
            "base": "micro",
            "format": f"osediff-comfyui-{part}",
            "format_version": "1",
            f"rank_{part}": "4",
            f"alpha_{part}": "8.0",
        }
    assert load_file(tmp_path / "v.safetensors").keys() == vae_patch(published).keys()


@pytest.mark.parametrize(
    ("write", "part", "key"),
    [(unet_lora, "unet", "conv_out.weight"), (vae_patch, "vae", "encoder.conv_in.bias")],
)
def test_other_layers_trained_in_full_are_refused(published, write, part, key):
    more = replace(published, **{part: getattr(published, part) | {key: torch.zeros(3)}})
    with pytest.raises(OSEDiffError, match=key):
        write(more)


def test_another_bases_conv_in_is_refused(published):
    with pytest.raises(OSEDiffError, match=r"conv_in.weight is .* the base's \(320, 4, 3, 3\)"):
        unet_lora(published, {"conv_in.weight": torch.zeros(320, 4, 3, 3), "conv_in.bias": torch.zeros(320)})

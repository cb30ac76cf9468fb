"""Weights under the names of other programs: the same model, or a sentence that names the true cause."""

import logging
import sys

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from osediff_core import OSEDiff
from osediff_core.base.load import DEMO_BASE, DEMO_WEIGHTS
from osediff_core.base.network import import_transformers
from osediff_core.errors import OSEDiffError
from osediff_core.lora import check_fit
from osediff_core.network.unet import UNet
from osediff_core.prompts.captioner import Captioner
from osediff_core.prompts.tag_network import TagConfig, empty_network
from osediff_core.tools.describe import describe
from osediff_core.weights.checkpoint import read_checkpoint, write_published
from osediff_core.weights.lora_names import read_name
from osediff_core.weights.tensorfile import TensorFile


@pytest.fixture(scope="module")
def demo():
    return read_checkpoint(DEMO_WEIGHTS)


@pytest.fixture(scope="module")
def tensors():
    return load_file(DEMO_WEIGHTS)


@pytest.fixture(scope="module")
def metadata():
    return TensorFile(DEMO_WEIGHTS).metadata


def assert_same(found, wanted):
    for part in ("unet", "vae"):
        ours, theirs = getattr(found, part), getattr(wanted, part)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert (found.scale_unet, found.scale_vae) == (wanted.scale_unet, wanted.scale_vae)


def in_part(word):
    return lambda key: key.replace("unet.", f"unet.{word}", 1).replace("vae.", f"vae.{word}", 1)


RENAMED = {
    "before": lambda key: f"module.{key}",
    "after the part": in_part("module."),
    "nested": in_part("_orig_mod.module."),
    "nested otherwise": lambda key: f"module._orig_mod.{key}",
    "in the middle": lambda key: key.replace(".resnets.", "._orig_mod.resnets.module."),
    "fsdp": in_part("_fsdp_wrapped_module."),
    "checkpointing": lambda key: key.replace(".attentions.", "._checkpoint_wrapped_module.attentions."),
    "averages": lambda key: f"ema.{key}",
    "averages of a part": in_part("ema_model.module."),
    "peft": in_part("base_model.model."),
    "an adapter": lambda key: key.replace(".lora_A.", ".lora_A.first.").replace(".lora_B.", ".lora_B.first."),
}


@pytest.mark.parametrize("how", RENAMED)
def test_what_a_wrapper_adds_to_names_is_taken_off(tmp_path, demo, tensors, metadata, how):
    renamed = {RENAMED[how](key): tensor for key, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, tmp_path / "x.safetensors", metadata)
    assert_same(read_checkpoint(tmp_path / "x.safetensors"), demo)


def test_it_is_said_once(tmp_path, tensors, metadata, caplog):
    save_file({f"module.{key}": t for key, t in tensors.items()}, tmp_path / "x.safetensors", metadata)
    with caplog.at_level(logging.INFO, "osediff_core"):
        read_checkpoint(tmp_path / "x.safetensors")
    assert [r.getMessage() for r in caplog.records if "module" in r.getMessage()] == [
        f"{tmp_path / 'x.safetensors'}: left module out of the names of its tensors"
    ]


@pytest.mark.parametrize("word", ["module.", "_orig_mod.", "module._orig_mod.", "base_model.model."])
def test_a_published_checkpoint_of_a_wrapped_network(tmp_path, demo, word):
    write_published(tmp_path / "plain.pkl", demo)
    content = torch.load(tmp_path / "plain.pkl", weights_only=True)
    for part in ("state_dict_unet", "state_dict_vae"):
        content[part] = {word + key: tensor for key, tensor in content[part].items()}
    torch.save(content, tmp_path / "x.pkl")
    assert_same(read_checkpoint(tmp_path / "x.pkl"), read_checkpoint(tmp_path / "plain.pkl"))


def test_averages_beside_the_weights_are_left_out(tmp_path, demo, tensors, metadata):
    averages = {f"ema.{key}": torch.zeros_like(tensor) for key, tensor in tensors.items()}
    save_file(tensors | averages, tmp_path / "x.safetensors", metadata)
    assert_same(read_checkpoint(tmp_path / "x.safetensors"), demo)


def test_a_tensor_with_and_without_a_wrapper_is_not_guessed_at(tmp_path, tensors, metadata):
    twice = {"module." + key: tensor + 1 for key, tensor in tensors.items()}
    save_file(tensors | twice, tmp_path / "x.safetensors", metadata)
    with pytest.raises(OSEDiffError, match=r"a tensor twice"):
        read_checkpoint(tmp_path / "x.safetensors")


def spelled(tensors, side, start=""):
    """The demo's tensors as another program calls them; side: of "lora_A" and "lora_B", the new names."""
    found = {}
    for key, tensor in tensors.items():
        for old, new in zip(("lora_A", "lora_B"), side, strict=True):
            key = key.replace(f".{old}.weight", f".{new}.weight")
        found[start + key] = tensor
    return found


def kohya(tensors, alphas):
    found = {}
    for key, tensor in spelled(tensors, ("lora_down", "lora_up")).items():
        module, side, _ = key.rpartition(".lora_")
        part, _, name = module.partition(".")
        if side:
            flat = f"lora_{part}_{name.replace('.', '_')}"
            found[f"{flat}.lora_{key.removeprefix(module + '.lora_')}"] = tensor
            found[f"{flat}.alpha"] = torch.tensor(alphas[part])
        else:
            found[key] = tensor
    return found


@pytest.mark.parametrize(
    ("side", "start"),
    [
        (("lora_A", "lora_B"), ""),
        (("lora_A", "lora_B"), "base_model.model."),
        (("lora_A.default", "lora_B.default"), ""),
        (("lora_A.default", "lora_B.default"), "module.base_model.model."),
        (("lora.down", "lora.up"), ""),
        (("lora_linear_layer.down", "lora_linear_layer.up"), ""),
    ],
)
def test_a_lora_as_peft_and_diffusers_spell_it(tmp_path, demo, tensors, side, start):
    says = {"alpha_unet": str(demo.alpha_unet), "alpha_vae": str(demo.alpha_vae)}
    save_file(spelled(tensors, side, start), tmp_path / "x.safetensors", says)
    assert_same(read_checkpoint(tmp_path / "x.safetensors"), demo)
    assert "another program's LoRA" in describe(tmp_path / "x.safetensors").kind


def test_a_lora_as_kohya_spells_it(tmp_path, demo, tensors):
    save_file(kohya(tensors, {"unet": demo.alpha_unet, "vae": demo.alpha_vae}), tmp_path / "x.safetensors")
    assert_same(read_checkpoint(tmp_path / "x.safetensors"), demo)


def test_where_nothing_says_alpha_it_is_the_rank_and_that_is_said(tmp_path, demo, tensors, caplog):
    save_file(tensors, tmp_path / "x.safetensors")
    checkpoint = read_checkpoint(tmp_path / "x.safetensors")
    assert (checkpoint.alpha_unet, checkpoint.alpha_vae) == (demo.rank_unet, demo.rank_vae)
    assert sum("does not say alpha" in record.getMessage() for record in caplog.records) == 2


def test_layers_of_different_alpha_are_no_checkpoint(tmp_path, tensors):
    spelled = kohya(tensors, {"unet": 8.0, "vae": 8.0})
    spelled[next(key for key in spelled if key.endswith(".alpha"))] = torch.tensor(3.0)
    save_file(spelled, tmp_path / "x.safetensors")
    with pytest.raises(OSEDiffError, match=r"different rank or alpha"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_every_layer_of_a_full_size_unet_and_vae_has_its_name_back_from_kohyas():
    from benchmarks.random_base import empty
    from osediff_core.lora import unet_targets, vae_targets

    modules = [m for group in unet_targets(empty("unet")).values() for m in group]
    for part, names in (("unet", modules), ("vae", vae_targets(empty("vae")))):
        assert len(names) > 30
        for module in names:
            name = read_name(f"lora_{part}_{module.replace('.', '_')}.lora_down.weight")
            assert (name.part, name.module) == (part, module)


# ---- number formats ---------------------------------------------------------------------------------


def known(*kinds):
    """Those that this torch has and this safetensors writes."""
    return [kind for kind in kinds if hasattr(torch, kind) and writes(getattr(torch, kind))]


def writes(dtype):
    try:
        save({"x": torch.zeros(1).to(dtype)})
    except KeyError:
        return False
    return True


FLOATS = known("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float64")


@pytest.mark.parametrize("kind", FLOATS)
def test_floats_of_any_width_are_read(tmp_path, tensors, metadata, kind):
    stored = {key: tensor.to(getattr(torch, kind)) for key, tensor in tensors.items()}
    save_file(stored, tmp_path / "x.safetensors", metadata)
    checkpoint = read_checkpoint(tmp_path / "x.safetensors")
    for part in ("unet", "vae"):
        for key, tensor in getattr(checkpoint, part).items():
            assert torch.equal(tensor.double(), stored[f"{part}.{key}"].double())
    assert kind in describe(tmp_path / "x.safetensors").facts["stored"]
    OSEDiff.from_pretrained(DEMO_BASE, tmp_path / "x.safetensors", device="cpu")


@pytest.mark.parametrize("kind", known("int8", "uint8", "bool", "complex64", "int64"))
def test_other_numbers_are_named(tmp_path, tensors, metadata, kind):
    save_file(
        {k: t.to(getattr(torch, kind)) for k, t in tensors.items()}, tmp_path / "x.safetensors", metadata
    )
    with pytest.raises(OSEDiffError, match=f"in {kind}, expected floating point"):
        read_checkpoint(tmp_path / "x.safetensors")
    assert kind in describe_stored(tmp_path / "x.safetensors")


def describe_stored(path):
    file = TensorFile(path)
    return {str(file.dtype(key)).removeprefix("torch.") for key in file.shapes}


# ---- what cannot be known is named as it is -----------------------------------------------------------


def test_a_foreign_prefix_is_named(tmp_path, tensors, metadata):
    renamed = {in_part("generator.")(key): tensor for key, tensor in tensors.items()}
    save_file(renamed, tmp_path / "x.safetensors", metadata)
    with pytest.raises(OSEDiffError, match=r"begin with 'generator.'"):
        OSEDiff.from_pretrained(DEMO_BASE, tmp_path / "x.safetensors", device="cpu")
    save_file({f"generator.{key}": t for key, t in tensors.items()}, tmp_path / "x.safetensors", metadata)
    with pytest.raises(
        OSEDiffError, match=r"begins with unet\. or vae\., but others such as generator\.unet"
    ):
        read_checkpoint(tmp_path / "x.safetensors")


def test_a_checkpoint_of_another_base_is_still_sent_to_its_own(demo):
    """The control: its names have no prefix in common that explains them."""
    unet = {"conv_in.weight": torch.zeros(3, 3, 3, 3), "conv_other.weight": torch.zeros(1)}
    from benchmarks.random_base import empty

    network = empty("unet")
    assert isinstance(network, UNet)
    with pytest.raises(OSEDiffError, match=r"use it with the base that it was trained on"):
        check_fit(network, unet)


def broken_library(folder, name, text):
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(f"raise RuntimeError({text!r})\n")


@pytest.fixture
def without_transformers(monkeypatch, tmp_path):
    forget(monkeypatch, "transformers")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def forget(monkeypatch, library):
    for name in [n for n in sys.modules if n.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)


SIZES = TagConfig(8, (1, 1, 1, 1), (1, 1, 1, 1), 2, width=8, hidden=8, ffn=8, layers=1, tags=3, image_size=64)
ASKING = {
    "base": lambda: import_transformers("CLIPTextModel"),
    "tagger": lambda: empty_network(SIZES),
    "captioner": lambda: Captioner.from_pretrained("x", device="cpu"),
}


@pytest.mark.parametrize("who", ASKING)
def test_a_torchvision_of_another_torch_is_named(without_transformers, monkeypatch, who):
    forget(monkeypatch, "torchvision")
    broken_library(without_transformers, "transformers", "Could not import module 'CLIPTextModel'")
    broken_library(without_transformers, "torchvision", "operator torchvision::nms does not exist")
    with pytest.raises(OSEDiffError, match=r"torchvision .*does not work with PyTorch .*nms does not exist"):
        ASKING[who]()


def test_a_transformers_that_is_broken_itself_is_named(without_transformers):
    broken_library(without_transformers, "transformers", "cannot import name 'x' from 'y'")
    with pytest.raises(OSEDiffError, match=r"transformers .*does not work here; install it again"):
        import_transformers()


def test_a_missing_library_is_named(without_transformers):
    (without_transformers / "transformers.py").write_text("import surely_not_installed\n")
    with pytest.raises(OSEDiffError, match=r"install surely_not_installed, which it needs"):
        import_transformers()

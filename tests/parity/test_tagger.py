"""The tagger against recorded outputs of the published one: RAM and DAPE, small, with random weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from osediff_core.prompts.ram import fold_dape, read_config
from osediff_core.prompts.tag_network import build_network
from osediff_core.prompts.tagger import Tagger

TESTS = Path(__file__).parents[1]
RECORDED = TESTS / "golden_ram_tiny"
VARIANTS = ("dape", "ram_only", "dape_tied_quirk")
# What each variant must be told from: the same weights without its pairs.
CONTROL = {"dape": "ram_only", "ram_only": "dape", "dape_tied_quirk": "dape"}


@pytest.fixture(scope="module")
def io():
    return load_file(RECORDED / "io.safetensors")


@pytest.fixture(scope="module")
def pictures(io):
    """(2, 3, 384, 384) uint8: recorded at a quarter of the size."""
    return io["image_u8_quarter"].repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)


@pytest.fixture(scope="module")
def taggers(io):
    """The tagger of each variant."""
    both = load_file(RECORDED / "weights.safetensors")
    ram = {key: tensor for key, tensor in both.items() if ".lora_" not in key}
    dape = {key: tensor for key, tensor in both.items() if ".lora_" in key}
    pairs = {"ram_only": None, "dape": dape}
    pairs["dape_tied_quirk"] = {**dape, **load_file(RECORDED / "tied.safetensors")}

    def make(variant):
        folded = fold_dape(ram, pairs[variant])
        network = build_network(read_config(folded), folded, torch.float32)
        return Tagger(network, [f"tag {i}" for i in range(120)], io["class_threshold"])

    return {variant: make(variant) for variant in VARIANTS}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits(taggers, io, pictures, gate, variant):
    ours, wrong = (taggers[name].logits(pictures) for name in (variant, CONTROL[variant]))
    gate("tagger logits", 5e-5, ours, io[f"{variant}.logits"], wrong, f"as {CONTROL[variant]}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_tags_are_the_published_ones(taggers, io, pictures, variant):
    expected = [[f"tag {i}" for i in row.nonzero()[:, 0].tolist()] for row in io[f"{variant}.targets"]]
    assert taggers[variant].tags(pictures) == expected
    wrong = taggers["dape" if variant == "ram_only" else "ram_only"].tags(pictures)
    assert wrong != expected  # the comparison can fail


def test_image_tokens(taggers, io, pictures, gate):
    def tokens(tagger):
        with torch.no_grad():
            out = tagger.network.swin(pixel_values=tagger.preprocess(pictures)).last_hidden_state
        return torch.cat([out.mean(1, keepdim=True), out], dim=1)[:, :9]

    ours, wrong = tokens(taggers["dape"]), tokens(taggers["ram_only"])
    gate("tagger image tokens", 5e-5, ours, io["dape.visual_cls_and_first8"], wrong, "without DAPE")


@pytest.mark.parametrize(("antialias", "recorded"), [(False, "input"), (True, "input_antialias")])
def test_what_the_tagger_looks_at(taggers, io, gate, antialias, recorded):
    """The published result needs the old resizing of tensors, without antialiasing: the default."""
    prepared = load_file(TESTS / "golden" / "d_cli_resize.safetensors")["1.prepared_u8"][None]
    network = taggers["dape"].network
    ours, wrong = (
        Tagger(network, ["?"], torch.ones(1), antialias=choice).preprocess(prepared)[:, :, :4]
        for choice in (antialias, not antialias)
    )
    assert taggers["dape"].antialias is False
    gate(f"tagger {recorded}", 5e-6, ours, io[recorded], wrong, f"antialias={not antialias}")

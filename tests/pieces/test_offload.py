"""Parts go to the device only while they are needed, and come back whatever happens."""

import copy
from contextlib import suppress

import pytest
import torch

from osediff_core import OSEDiff, restore
from osediff_core.base import load
from osediff_core.base.load import resolve_device, resolve_dtype
from osediff_core.device.offload import resident
from osediff_core.errors import OSEDiffError
from osediff_core.pipeline import plan, runtime
from osediff_core.pipeline.plan import make_plan
from osediff_core.pipeline.run import decode, denoise, encode, encode_prompt

META = torch.device("meta")


def places(model):
    """Where each part is."""
    parts = {
        "text": model.text_encoder,
        "unet": model.unet,
        "encoder": model.vae.encoder,
        "quant": model.vae.quant_conv,
        "decoder": model.vae.decoder,
        "post_quant": model.vae.post_quant_conv,
    }
    return {
        name: {t.device.type for t in (*part.parameters(), *part.buffers())} for name, part in parts.items()
    }


@pytest.fixture
def offloaded(model):
    net = copy.deepcopy(model)
    net.offload_to = torch.device("cpu", 0)  # another name of the same place: so that it can compute
    return net


def test_parts_are_there_only_inside_and_unchanged_afterwards(model):
    net = copy.deepcopy(model)
    with suppress(KeyError), resident(META, net.vae.encoder, net.vae.quant_conv, None):
        there = places(net)
        assert {name for name, where in there.items() if where == {"meta"}} == {"encoder", "quant"}
        raise KeyError
    assert all(where == {"cpu"} for where in places(net).values())
    for ours, theirs in zip(net.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


TEXT, ENCODER, UNET, DECODER = PARTS = (
    ["text_encoder"],
    ["vae.encoder", "vae.quant_conv"],
    ["unet"],
    ["vae.post_quant_conv", "vae.decoder"],
)


@pytest.fixture
def moved(offloaded, monkeypatch):
    """The parts that were moved to the device, by their names, move by move."""
    seen = []

    def note(device, *parts):
        names = {id(part): name for name, part in offloaded.named_modules()}
        seen.append([names[id(part)] for part in parts if part is not None])
        return resident(device, *parts)

    monkeypatch.setattr(runtime, "resident", note)
    return seen


def test_without_offloading_nothing_moves(model, moved):
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    for part in (model.encoder_part, (model.unet,), model.decoder_part, (model.text_encoder,)):
        with runtime.Runtime().load(model, part, 0):
            assert {name: id(parameter) for name, parameter in model.named_parameters()} == before
    restore(model, torch.rand(1, 3, 8, 8, generator=torch.manual_seed(0)))
    assert moved == []


@pytest.mark.parametrize(("together", "times"), [(1, 3), (2, 2), (8, 1)])
def test_pictures_at_once_move_part_after_part_and_the_prompts_only_the_first(
    offloaded, moved, monkeypatch, together, times
):
    monkeypatch.setattr(plan, "MOST_PICTURES", together)
    restore(offloaded, torch.rand(3, 3, 8, 8, generator=torch.manual_seed(0)))
    assert moved == [TEXT, *[ENCODER, UNET, DECODER] * times]


def test_every_step_moves_its_own_part_once_for_all_images(offloaded, moved):
    surroundings = runtime.Runtime()
    made = make_plan(offloaded, 32, 32, count=4, runtime=surroundings)
    embeds = encode_prompt(offloaded, [""], surroundings)
    z = encode(offloaded, torch.rand(4, 3, 32, 32), made, surroundings)
    decode(offloaded, denoise(offloaded, z, embeds, made, surroundings), made, surroundings)
    assert moved == [*PARTS]


def test_offloading_changes_no_bit(model, offloaded, monkeypatch):
    monkeypatch.setattr(plan, "MOST_PICTURES", 1)  # as on a processor: the last bits hang on the company
    lq = torch.rand(2, 3, 8, 12, generator=torch.manual_seed(0))
    assert torch.equal(restore(offloaded, lq), restore(model, lq))
    assert torch.equal(restore(offloaded, lq, vae=32), restore(model, lq, vae=32))


def test_a_model_is_loaded_offloaded(micro, monkeypatch):
    monkeypatch.setattr("osediff_core.model.resolve_device", lambda device: META)
    monkeypatch.setattr("osediff_core.model.resolve_dtype", lambda dtype, device: torch.float32)
    net = OSEDiff.from_pretrained(micro / "tiny_sd", micro / "osediff.pkl", offload="parts")
    assert net.device == META
    assert all(where == {"cpu"} for where in places(net).values())
    on_cpu = OSEDiff.from_pretrained(micro / "tiny_sd", offload="none", device="cpu", dtype="float32")
    assert on_cpu.offload_to is None


def test_a_choice_that_is_none_is_refused(micro):
    with pytest.raises(OSEDiffError, match="one of none, parts, got 'all'"):
        OSEDiff.from_pretrained(micro / "tiny_sd", offload="all")


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("tpu", "auto, cpu, cuda, xpu or mps"),
        ("meta", "auto, cpu, cuda, xpu or mps"),
        ("cpu:3", "there is no device cpu:3: this machine has 1"),
    ],
)
def test_a_device_that_does_not_exist_is_named(device, words):
    with pytest.raises(OSEDiffError, match=words):
        resolve_device(device)


def test_a_card_with_a_number_too_high_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(OSEDiffError, match="no device cuda:2: this machine has 2 of type cuda"):
        resolve_device("cuda:2")


def test_a_dtype_that_the_device_lacks_is_named(monkeypatch):
    assert resolve_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16

    def lack(*args, **options):
        raise RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'\nmore")

    monkeypatch.setattr(load.torch, "conv2d", lack)
    with pytest.raises(OSEDiffError, match=r"cpu cannot compute in float16 \(.*Half.*\): use float32"):
        resolve_dtype("float16", torch.device("cpu"))

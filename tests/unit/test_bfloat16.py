"""bfloat16 on a processor: measured when a model is merged, taken where it comes near and there are units."""

import copy
import logging

import pytest
import torch

from osediff_core import OSEDiff, restore
from osediff_core.base import precision
from osediff_core.base.marker import read_marker, write_marker
from osediff_core.base.precision import MEASURED, multiplies_bfloat16, processor_dtype
from osediff_core.device.memory import NotEnoughMemoryError
from osediff_core.errors import OSEDiffError
from osediff_core.tools import bfloat16, merged
from osediff_core.tools.bfloat16 import pictures, worst_psnr
from osediff_core.tools.merged import write_merged


@pytest.fixture
def units(monkeypatch):
    """Tell whether the processor multiplies bfloat16."""

    def have(yes):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: yes)

    have(True)
    return have


@pytest.fixture
def small(monkeypatch):
    """Pictures of 16 pixels, of which the micro model makes little work."""
    monkeypatch.setattr(bfloat16, "SIDE", 16)


@pytest.fixture(scope="module")
def folder(micro, tmp_path_factory):
    """The micro model, merged, with the measure of another."""
    out = tmp_path_factory.mktemp("merged") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merged, "worst_psnr", lambda model: 51.84)
        write_merged(out, micro / "tiny_sd", micro / "osediff.pkl")
    return out


@pytest.mark.parametrize(
    ("said", "yes", "dtype"),
    [
        ("50.0", True, torch.bfloat16),
        ("inf", True, torch.bfloat16),
        ("49.9", True, torch.float32),
        ("0.0", True, torch.float32),
        ("nan", True, torch.float32),
        (None, True, torch.float32),
        ("60.0", False, torch.float32),
    ],
)
def test_it_is_taken_where_it_came_near_and_the_processor_multiplies_it(units, caplog, said, yes, dtype):
    units(yes)
    with caplog.at_level(logging.INFO, "osediff_core"):
        assert processor_dtype({} if said is None else {MEASURED: said}) == dtype
    assert len(caplog.messages) == (dtype == torch.bfloat16)  # what else, there is no choice to tell of


def test_a_measure_that_is_no_number_is_a_sentence(units):
    with pytest.raises(
        OSEDiffError, match=r"'much' as bfloat16_psnr, which must be a number: merge it again"
    ):
        processor_dtype({MEASURED: "much"})


@pytest.mark.parametrize(
    ("bf16", "amx", "library", "yes"),
    [
        (True, False, True, True),
        (False, True, True, True),
        (False, False, True, False),
        (True, True, False, False),
        (None, None, True, False),  # a PyTorch that does not say
    ],
)
def test_the_units_are_those_that_pytorch_knows_of(monkeypatch, bf16, amx, library, yes):
    for name, there in (("_is_avx512_bf16_supported", bf16), ("_is_amx_tile_supported", amx)):
        if there is None:
            monkeypatch.delattr(torch.cpu, name)
        else:
            monkeypatch.setattr(torch.cpu, name, lambda there=there: there)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: library)
    assert multiplies_bfloat16() == yes


@pytest.mark.usefixtures("units")
def test_a_merged_model_is_loaded_so_and_an_explicit_type_stays(folder, micro, caplog):
    assert read_marker(folder)[MEASURED] == "51.8"
    with caplog.at_level(logging.INFO, "osediff_core"):
        assert OSEDiff.from_pretrained(folder, device="cpu").dtype == torch.bfloat16
    assert caplog.messages == [
        "computing in bfloat16, 51.8 dB from float32 at worst when this model was measured"
    ]
    caplog.clear()
    for dtype in ("float32", torch.float32):
        assert OSEDiff.from_pretrained(folder, dtype=dtype, device="cpu").dtype == torch.float32
    base = micro / "tiny_sd"
    assert OSEDiff.from_pretrained(base, micro / "osediff.pkl", device="cpu").dtype == torch.float32
    assert OSEDiff.from_pretrained(device="cpu").dtype == torch.float32  # the demo
    assert caplog.messages == []


def test_without_units_or_without_a_measure_it_is_float32(folder, units):
    about = read_marker(folder)
    try:
        write_marker(folder, {key: text for key, text in about.items() if key != MEASURED})
        assert OSEDiff.from_pretrained(folder, device="cpu").dtype == torch.float32
    finally:
        write_marker(folder, about)
    units(False)
    assert OSEDiff.from_pretrained(folder, device="cpu").dtype == torch.float32


@pytest.mark.usefixtures("units")
def test_with_another_decoder_it_is_another_network(folder, monkeypatch):
    monkeypatch.setattr("osediff_core.base.load.with_decoder", lambda vae, decoder: vae)
    assert OSEDiff.from_pretrained(folder, decoder="another", device="cpu").dtype == torch.float32


def spoil(net):
    """Add a large constant to all channels before a norm, which takes it away again: the same function."""
    net.vae.decoder.up_blocks[-1].resnets[-1].conv2.bias += 3000.0
    return net


@pytest.mark.usefixtures("small")
def test_the_measure_is_of_the_network_and_large_constants_cost(model):
    good, bad = copy.deepcopy(model), spoil(copy.deepcopy(model))
    lq = pictures()[:1]
    assert (restore(good, lq) - restore(bad, lq)).abs().max() < 0.02  # in float32 there is no difference
    found = worst_psnr(good), worst_psnr(bad)
    assert 30 < found[0] < 90  # random weights are worse than trained ones
    assert found[1] < found[0] - 10


@pytest.mark.usefixtures("small", "units")
def test_a_network_that_is_bad_in_bfloat16_computes_in_float32(micro, tmp_path, model, monkeypatch):
    """End to end, with its control: the same function without the constant is computed in bfloat16."""
    monkeypatch.setattr(precision, "NEAR", worst_psnr(copy.deepcopy(model)) - 5)
    load, found = OSEDiff.from_pretrained, {}
    for name, change in (("good", lambda net: net), ("bad", spoil)):
        loaded = change(load(micro / "tiny_sd", micro / "osediff.pkl", dtype="float32", device="cpu"))
        with monkeypatch.context() as patch:
            patch.setattr(OSEDiff, "from_pretrained", lambda *args, loaded=loaded, **options: loaded)
            write_merged(tmp_path / name, micro / "tiny_sd", micro / "osediff.pkl", dtype=torch.float32)
        found[name] = load(tmp_path / name, device="cpu").dtype
    assert found == {"good": torch.bfloat16, "bad": torch.float32}


@pytest.mark.usefixtures("small")
def test_numbers_that_are_not_finite_are_as_far_as_can_be(model):
    net = copy.deepcopy(model)
    net.unet.conv_in.register_forward_hook(
        lambda layer, args, out: out * torch.inf if layer.weight.dtype == torch.bfloat16 else None
    )
    assert worst_psnr(net) == 0


@pytest.mark.usefixtures("small")
def test_what_is_written_is_not_what_was_measured(micro, tmp_path, folder):
    """Measuring rounds the model in the end: the files are written before."""
    write_merged(tmp_path / "m", micro / "tiny_sd", micro / "osediff.pkl")
    again, other = (
        OSEDiff.from_pretrained(f, dtype="float16", device="cpu") for f in (tmp_path / "m", folder)
    )
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), other.parameters(), strict=True))
    assert 0 < float(read_marker(tmp_path / "m")[MEASURED]) < 100


def test_where_memory_does_not_suffice_there_is_no_measure(micro, tmp_path, monkeypatch):
    def full(model):
        raise NotEnoughMemoryError("there is not enough memory")

    monkeypatch.setattr(merged, "worst_psnr", full)
    write_merged(tmp_path / "m", micro / "tiny_sd", micro / "osediff.pkl")
    assert MEASURED not in read_marker(tmp_path / "m")


def test_the_pictures_are_always_the_same_and_five_kinds():
    first = pictures()
    torch.rand(3)
    assert torch.equal(first, pictures())
    assert first.shape == (5, 3, bfloat16.SIDE, bfloat16.SIDE)
    assert 0 <= first.min() < 0.21
    assert 0.79 < first.max() <= 1
    steps = first.diff(dim=-1).abs().mean((1, 2, 3))  # smooth, edges, text, clouds, noisy clouds
    assert steps[0] < steps[3] < steps[4] < steps[2]
    assert len({round(step, 3) for step in steps.tolist()}) == 5


@pytest.mark.parametrize(("free", "measured"), [(1000, False), (None, True)])
def test_weights_that_would_not_fit_in_float32_are_not_converted(micro, small, monkeypatch, free, measured):
    model = OSEDiff.from_pretrained(micro / "tiny_sd", micro / "osediff.pkl", dtype="float16", device="cpu")
    monkeypatch.setattr(bfloat16, "free_memory", lambda device: free)
    if measured:
        assert worst_psnr(model) > 0
        return
    with pytest.raises(NotEnoughMemoryError, match="float32"):
        worst_psnr(model)
    assert model.dtype == torch.float16

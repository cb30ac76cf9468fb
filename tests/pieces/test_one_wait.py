"""A device is waited for once per image: nothing asks it anything before the result is fetched.

The card is the meta device, which knows shapes alone: what is counted is what the program asks of it.
"""

import copy
import logging
from dataclasses import replace

import pytest
import torch

from benchmarks.waits import CARD, Waits, uploads_let_go
from osediff_core import restore
from osediff_core.color import to_levels
from osediff_core.device.memory import upload
from osediff_core.errors import OSEDiffError
from osediff_core.pipeline import run, unet_tiles
from osediff_core.pipeline.plan import make_plan
from osediff_core.pipeline.run import decode, denoise, encode
from osediff_core.pipeline.runtime import Runtime


@pytest.fixture
def card(model):
    """The micro model on the card, with a prompt that is kept there."""
    net = copy.deepcopy(model).to(CARD)
    embeds = torch.zeros(1, 77, 16, device=CARD)
    net.embeddings.of = lambda *rest: embeds
    with uploads_let_go(run, unet_tiles), Waits() as waits:
        yield net, waits


def test_what_goes_to_a_card_is_let_go_and_what_comes_from_it_is_not():
    class Noted:
        def to(self, device, non_blocking):
            return non_blocking

    assert [upload(Noted(), torch.device(name)) for name in ("cuda", "cuda:1", "cpu", "mps", "xpu")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(("color", "dtype"), [("adain", torch.float32), ("wavelet", torch.uint8)])
def test_an_image_is_waited_for_once(card, machine, dtype, color):
    net, waits = card
    how = {"color": color, "tile": 6, "overlap": 2, "dtype": dtype}
    out = restore(net, torch.rand(2, 3, 12, 20), **how, runtime=machine())
    assert (out.device.type, out.dtype) == ("cpu", dtype)
    assert waits.seen == ["to host"] * 2


def test_images_that_go_together_are_waited_for_once(card, machine):
    net, waits = card
    out = restore(net, torch.rand(3, 3, 12, 20), runtime=machine(2**40, 2**40))
    assert out.shape == (3, 3, 48, 80)
    assert waits.seen == ["to host"]


def test_an_image_in_pieces_is_waited_for_once(card, machine):
    net, waits = card
    restore(net, torch.rand(2, 3, 12, 20), vae=32, scale=2.5, runtime=machine())
    assert waits.seen == ["to host"] * 2


def test_what_lies_on_the_card_stays_there_and_is_asked_about_once(card, machine):
    net, waits = card
    x = torch.rand(1, 3, 12, 20, device=CARD)
    waits.seen.clear()
    assert restore(net, x, runtime=machine()).device == CARD
    assert waits.seen == ["read"] * 2  # the check of what came, and the end


def test_control_the_steps_one_by_one_wait_each_time(card, machine):
    net, waits = card
    plan, runtime = make_plan(net, 16, 16, runtime=machine()), Runtime()
    z = encode(net, torch.rand(1, 3, 16, 16), plan, runtime)
    decode(net, denoise(net, z, net.embeddings.of(), plan, runtime), plan, runtime)
    assert waits.seen == ["to card", "read", "to host"] * 3


@pytest.mark.usefixtures("figures")
def test_a_picture_too_large_for_the_card_lies_in_the_hosts_memory(card, machine):
    net, waits = card
    runtime = machine(2**40, 2 * 2**30)  # enough for pieces, not for what is kept
    plan = make_plan(net, 40, 40, scale=4, runtime=runtime)
    assert not plan.on_device
    assert plan.decode[0].keep == torch.device("cpu")
    out = restore(net, torch.rand(1, 3, 40, 40), runtime=runtime)
    assert out.shape == (1, 3, 160, 160)
    assert len(waits.seen) > 20


def break_from(module, first, times):
    """Let a layer overflow in so many calls from the `first` on."""
    calls = []

    def overflow(layer, args, out):
        calls.append(args[0].dtype)
        return out * torch.inf if first <= len(calls) < first + times else None

    module.register_forward_hook(overflow)
    return calls


@pytest.fixture
def asks_late(monkeypatch):
    """Take the processor for a device that is not waited for; what is fetched from it travels."""
    fetched = run._fetched

    def planned(*sizes, **choices):
        return replace(make_plan(*sizes, **choices), on_device=True)

    monkeypatch.setattr(run, "make_plan", planned)
    monkeypatch.setattr(run, "_fetched", lambda sr, good, to: fetched(sr, good, torch.device("cpu", 0)))


@pytest.mark.usefixtures("asks_late")
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_an_image_that_was_not_finite_is_made_again_part_by_part(model, dtype, caplog):
    lq = torch.rand(3, 3, 8, 8, generator=torch.manual_seed(0))
    net = copy.deepcopy(model).to(torch.bfloat16)
    expected = restore(net, lq, dtype=dtype)
    # The second image's noise overflows, and again when it is made once more; then float32 helps.
    calls = break_from(net.unet.conv_in, 2, 2)
    seen = []
    with caplog.at_level(logging.WARNING):
        out = restore(net, lq, dtype=dtype, progress=lambda *at: seen.append(at))
    half, exact = torch.bfloat16, torch.float32
    assert calls == [half, half, half, exact, half]
    assert [r.message for r in caplog.records] == [
        "the predicted noise is not finite in bfloat16; computing it once more in float32"
    ]
    assert torch.equal(out[0], expected[0])
    assert (out.float() - expected.float()).abs().mean() < 0.05 * (1 if dtype == exact else 255)
    steps = make_plan(net, 8, 8, scale=4, count=3, runtime=Runtime()).steps
    assert seen[-1] == (steps, steps)
    assert max(seen) == (steps, steps)
    assert {total for _, total in seen} == {steps}


@pytest.mark.usefixtures("asks_late")
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_asking_late_changes_no_bit(model, dtype, monkeypatch):
    lq = torch.rand(2, 3, 8, 8, generator=torch.manual_seed(0))
    late = restore(model, lq, dtype=dtype)
    monkeypatch.undo()
    assert torch.equal(late, restore(model, lq, dtype=dtype))


@pytest.mark.usefixtures("asks_late")
def test_what_stays_infinite_is_the_same_sentence(model):
    net = copy.deepcopy(model)
    net.vae.decoder.conv_out.weight.fill_(torch.inf)
    with pytest.raises(OSEDiffError, match="decoded image is not finite in float32"):
        restore(net, torch.rand(1, 3, 8, 8))


def test_levels_are_rounded_as_files_are(model):
    lq = torch.rand(1, 3, 9, 7, generator=torch.manual_seed(0))
    sr = restore(model, lq)
    levels = restore(model, lq, dtype=torch.uint8)
    assert torch.equal(levels, sr.clamp(0, 1).mul(255).round().to(torch.uint8))
    assert not torch.equal(levels, (sr * 255).to(torch.uint8))  # what truncating would give
    halves = torch.tensor([0.5, 1.5, 2.5, 254.5]) / 255
    assert to_levels(halves).tolist() == [0, 2, 2, 254]
    with pytest.raises(OSEDiffError, match=r"float32 or uint8, got torch\.float16"):
        restore(model, lq, dtype=torch.float16)

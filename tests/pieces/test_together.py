"""Several pictures at once: on a device whose memory is known, and with the pictures of one by one."""

import copy
import logging

import pytest
import torch

from osediff_core import restore
from osediff_core.device import memory
from osediff_core.errors import OSEDiffError
from osediff_core.pipeline import run
from osediff_core.pipeline.plan import MOST_PICTURES, SHARE, make_plan
from osediff_core.pipeline.run import encode

from .vaes import uneven

GATE = 1e-4  # of sums in another order
ROOM = 2**40


@pytest.fixture
def away(model):
    """The model on a device that is not called the processor, though it is."""
    net = copy.deepcopy(model)
    net.offload_to = torch.device("cpu", 0)
    return net


def pictures(count, height=9, width=14):
    return (uneven(count, 3, height, width) + 1) / 2


def called(module):
    """The number of pictures in each call of a module, and the number format it computes in."""
    calls = []
    module.register_forward_pre_hook(lambda layer, args: calls.append((len(args[0]), layer.weight.dtype)))
    return calls


def counts(calls):
    return [count for count, _ in calls]


def test_pictures_go_together_where_memory_is_known_to_be_free(model, away, machine):
    def together(net, count=100, free=ROOM, **cut):
        return make_plan(net, 24, 24, count=count, scale=4, runtime=machine(ROOM, free), **cut).together

    assert together(away) == MOST_PICTURES
    assert together(away, count=3) == 3
    assert together(away, vae="whole") == MOST_PICTURES
    assert together(away, free=None) == together(away, free=0) == together(away, free=0, vae="whole") == 1
    assert together(away, vae=64) == together(away, tile=4, overlap=1) == 1  # in parts already
    assert together(model) == 1  # a processor is no faster so


@pytest.mark.parametrize("several", [2, 3, 7])
def test_as_many_go_together_as_fit_and_no_more(away, machine, several):
    least = next(
        free
        for free in range(32 * 2**20, 2**30, 2**18)
        if make_plan(away, 24, 24, count=9, scale=4, runtime=machine(ROOM, free)).together == several
    )
    plan = make_plan(away, 24, 24, count=9, scale=4, runtime=machine(ROOM, least))
    assert plan.fits
    assert plan.on_device
    weights = least - plan.device_free
    assert plan.device_bytes > 0.9 * SHARE * (least - 2**18 - weights)  # or more would have fitted before
    assert f"9 pictures of 96 x 96 in one tile, {several} pictures at once, encoded whole" in str(plan)
    alone = make_plan(away, 24, 24, count=9, scale=4, runtime=machine(ROOM, None))
    grown = plan.decode[0].device_bytes - alone.decode[0].device_bytes
    assert grown > 0.9 * (several - 1) * (alone.decode[0].device_bytes - 32 * 2**20)


@pytest.mark.parametrize("color", ["adain", "wavelet"])
def test_each_picture_of_a_batch_is_what_it_is_alone(model, away, machine, color):
    lq, prompts = pictures(5), ["a cat", "", "a tree", "a house", "grass"]
    alpha = torch.ones(5, 1, 9, 14)
    alpha[1] = 0.0
    alpha[3, :, :, 5:] = 0.0
    alone = [
        restore(model, lq[i : i + 1], prompt=prompts[i], color=color, alpha=alpha[i : i + 1])
        for i in range(5)
    ]
    calls, expected = called(away.unet.conv_in), torch.cat(alone)
    out = restore(away, lq, prompt=prompts, color=color, alpha=alpha, runtime=machine(ROOM, ROOM))
    assert counts(calls) == [5]
    assert (out - expected).abs().max() <= GATE
    others = torch.stack([(out - expected.roll(i, 0)).abs().amax((1, 2, 3)) for i in range(1, 5)])
    assert others.min() > 100 * GATE  # the control: any two that change places are seen


def test_control_a_prompt_of_another_picture_is_seen(model, away, machine, monkeypatch):
    lq, prompts = pictures(2), ["a cat", ""]
    alone = torch.cat([restore(model, lq[i : i + 1], prompt=prompts[i]) for i in range(2)])
    true = type(away).predict_noise
    monkeypatch.setattr(type(away), "predict_noise", lambda self, z, embeds: true(self, z, embeds.flip(0)))
    out = restore(away, lq, prompt=prompts, runtime=machine(ROOM, ROOM))
    assert (out - alone).abs().amax((1, 2, 3)).min() > GATE


def starve(monkeypatch, owner, name, most):
    """Let a function run out of memory with more than so many pictures; return the numbers of them."""
    true, seen = getattr(owner, name), []
    monkeypatch.setattr(memory, "release", lambda: None)  # which takes half a second each time

    def starved(*args, **options):
        seen.append(len(args[1]))
        if len(args[1]) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return true(*args, **options)

    monkeypatch.setattr(owner, name, starved)
    return seen


@pytest.mark.parametrize(
    ("most", "of_five"),
    [
        (1, [5, 3, 2, 1, 1, 1, 2, 1, 1]),
        (2, [5, 3, 2, 1, 2]),
        (3, [5, 3, 2]),
    ],
)
@pytest.mark.parametrize("part", ["UNet", "VAE"])
def test_where_memory_runs_out_fewer_go_together_down_to_one(
    model, away, machine, monkeypatch, caplog, most, of_five, part
):
    lq, at = pictures(5), []
    alone = torch.cat([restore(model, one) for one in lq.split(1)])
    owner = (type(away), "predict_noise") if part == "UNet" else (run, "run_whole")
    seen = starve(monkeypatch, *owner, most)
    with caplog.at_level(logging.WARNING):
        out = restore(away, lq, runtime=machine(ROOM, ROOM, lambda *steps: at.append(steps)))
    assert seen == of_five * (1 if part == "UNet" else 2)
    assert caplog.messages[0] == "memory ran out with 5 pictures at once; going on with 3"
    assert (out - alone).abs().max() <= GATE
    assert at[-1][0] == at[-1][1] == max(done for done, _ in at)


def test_one_for_which_memory_does_not_suffice_goes_in_pieces(model, away, machine, monkeypatch, caplog):
    lq = pictures(2)
    alone = restore(model, lq)
    seen = starve(monkeypatch, run, "run_whole", 0)
    with caplog.at_level(logging.WARNING):
        out = restore(away, lq, runtime=machine(ROOM, ROOM))
    assert seen == [2, 1, 1] * 2
    assert caplog.messages[1].startswith("memory ran out with the VAE whole; going on with the VAE in pieces")
    assert (out - alone).abs().max() <= 1e-4  # of pieces against the whole, as everywhere


def test_progress_counts_every_picture_and_may_cancel_between_two_steps(away, machine):
    class CancelError(Exception):
        pass

    def cancel(*steps):
        at.append(steps)
        if len(at) == 7:
            raise CancelError

    lq, at = pictures(3), []
    steps = make_plan(away, 9, 14, count=3, scale=4, runtime=machine(ROOM, ROOM)).steps
    restore(away, lq, runtime=machine(ROOM, ROOM, lambda *steps: at.append(steps)))
    assert at == [(3 * i, steps) for i in range(1, steps // 3 + 1)]
    at.clear()
    with pytest.raises(CancelError):
        restore(away, lq, runtime=machine(ROOM, ROOM, cancel))
    assert len(at) == 7


@pytest.mark.parametrize("part", ["unet", "encoder", "decoder"])
@pytest.mark.parametrize("late", [True, False])
def test_one_that_is_not_finite_is_made_again_and_the_others_stay(away, machine, caplog, part, late):
    net, lq, at = away.to(torch.bfloat16), pictures(4), []
    runtime = machine(ROOM, ROOM, lambda *steps: at.append(steps))
    runtime.asks_late = late
    expected = restore(net, lq, runtime=machine(ROOM, ROOM))
    layer = net.unet.conv_in if part == "unet" else getattr(net.vae, part).conv_in

    def overflow(layer, args, out):
        if layer.weight.dtype != torch.float32:
            out = out.clone()
            out[2] = torch.inf
        return out

    calls = called(layer)
    layer.register_forward_hook(overflow)
    with caplog.at_level(logging.WARNING):
        out = restore(net, lq, runtime=runtime)
    assert calls == [(4, torch.bfloat16)] * (1 + late) + [(1, torch.float32)]
    assert len(caplog.messages) == 1
    rest = [0, 1, 3]
    assert torch.equal(out[rest], expected[rest])
    assert 0 < (out[2] - expected[2]).abs().mean() < 0.05
    assert at[-1][0] == at[-1][1] == max(done for done, _ in at)


def test_what_stays_infinite_in_one_is_the_sentence_of_all(away, machine):
    net = away
    net.unet.conv_in.register_forward_hook(lambda layer, args, out: out * torch.inf)
    with pytest.raises(OSEDiffError, match="predicted noise is not finite in float32"):
        restore(net, pictures(3), runtime=machine(ROOM, ROOM))


def test_a_step_by_itself_takes_as_many_as_its_plan_says(away, machine):
    x, calls = pictures(7, 16, 16), called(away.vae.encoder.conv_in)
    plan = make_plan(away, 16, 16, count=3, runtime=machine(ROOM, ROOM))
    z = encode(away, x, plan, machine())
    assert counts(calls) == [3, 3, 1]
    alone = make_plan(away, 16, 16, runtime=machine(ROOM, ROOM))
    assert (z - encode(away, x, alone, machine())).abs().max() <= GATE * (1 + z.abs().max())

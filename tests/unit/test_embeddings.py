"""The text encoder runs once for a text, and again when it is no longer the same."""

import copy

import pytest
import torch

from osediff_core import restore
from osediff_core.base.precision import convert
from osediff_core.device.offload import resident
from osediff_core.errors import OSEDiffError
from osediff_core.pipeline import run
from osediff_core.pipeline.runtime import Runtime
from osediff_core.prompt_cache import MOST


def encode_prompt(net, texts):
    return run.encode_prompt(net, texts, Runtime())


@pytest.fixture
def net(model):
    return copy.deepcopy(model)


@pytest.fixture
def calls(net):
    """How many texts went through the text encoder, call by call."""
    seen = []
    net.text_encoder.register_forward_hook(lambda layer, args, out: seen.append(len(args[0])))
    return seen


def last_norm(net):
    return next(m for name, m in net.text_encoder.named_modules() if name.endswith("final_layer_norm"))


def pictures(count):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_batch_and_a_queue_with_one_prompt_run_the_encoder_once(net, calls):
    restore(net, pictures(3), prompt=["a cat"] * 3, scale=1)
    for one in pictures(3).split(1):
        restore(net, one, prompt="a cat", scale=1)
    assert calls == [1]


def test_what_is_kept_is_what_is_computed_bit_for_bit(model, net, calls):
    texts = ["a cat", "", "a tree", "a cat"]
    first, again = encode_prompt(net, texts), encode_prompt(net, texts)
    assert torch.equal(first, again)
    assert torch.equal(first, torch.cat([model.encode_prompt([text]) for text in texts]))
    assert torch.equal(encode_prompt(net, "a tree"), first[2:3])
    assert calls == [1, 1, 1]
    lq = pictures(1)
    assert torch.equal(restore(net, lq, prompt="a cat"), restore(copy.deepcopy(net), lq, prompt="a cat"))


def test_a_caller_cannot_spoil_what_is_kept(net, calls):
    expected = encode_prompt(net, ["a cat"]).clone()
    encode_prompt(net, ["a cat"]).zero_()
    assert torch.equal(encode_prompt(net, ["a cat"]), expected)
    assert calls == [1]


def write_in_place(net):
    with torch.no_grad():
        last_norm(net).weight.mul_(2)


def load(net):
    net.text_encoder.load_state_dict({k: v * 1.5 for k, v in net.text_encoder.state_dict().items()})


def replace(net):
    last_norm(net).weight = torch.nn.Parameter(torch.ones(16) * 3)


def another(net):
    hooks = net.text_encoder._forward_hooks
    net.text_encoder = copy.deepcopy(net.text_encoder)
    net.text_encoder._forward_hooks = hooks
    with torch.no_grad():
        last_norm(net).bias.add_(1)


def round_weights(net):
    convert(net.text_encoder, torch.bfloat16)


@pytest.mark.parametrize("change", [write_in_place, load, replace, another, round_weights])
def test_another_encoder_starts_anew(net, calls, change):
    before = encode_prompt(net, ["a cat"])
    change(net)
    after = encode_prompt(net, ["a cat"])
    assert calls == [1, 1]
    assert not torch.equal(before, after)
    assert torch.equal(after, net.encode_prompt(["a cat"]))


def test_a_move_to_a_device_and_back_keeps_them(net, calls):
    expected = encode_prompt(net, ["a cat"])
    for parameter in net.text_encoder.parameters():
        parameter.data = parameter.data.clone()  # what `Module.to` does to each

    class Told(Runtime):
        def load(self, model, part, needed):
            told.append((part, needed))
            return super().load(model, part, needed)

    told, runtime = [], Told()
    again = run.encode_prompt(net, ["a cat", "a tree"], runtime)
    assert torch.equal(again[:1], expected)
    assert calls == [1, 1]
    run.encode_prompt(net, ["a tree"], runtime)
    assert told == [((net.text_encoder,), 0)]


def test_weights_that_were_loaded_under_inference_mode_may_be_moved_outside(model):
    with torch.inference_mode():
        net = copy.deepcopy(model)
        expected = encode_prompt(net, ["a cat"])
    for parameter in net.text_encoder.parameters():
        parameter.data = parameter.data.clone()
    assert torch.equal(encode_prompt(net, ["a cat"]), expected)


def test_weights_that_are_none_any_more_start_anew(net):
    encode_prompt(net, ["a cat"])
    net.text_encoder.to("meta")
    computed = []

    def compute(missing):
        computed.extend(missing)
        return [torch.zeros(1, 77, 16) for _ in missing]

    net.embeddings.of(net.text_encoder, ["a cat"], compute)
    assert computed == ["a cat"]


def test_offloading_and_copies_keep_what_is_theirs(net, calls):
    net.offload_to = torch.device("cpu", 0)
    expected = encode_prompt(net, ["a cat"])
    with resident(net.offload_to, net.text_encoder):
        pass
    assert torch.equal(encode_prompt(net, ["a cat"]), expected)
    assert calls == [1]
    other = copy.deepcopy(net)
    write_in_place(other)
    assert not torch.equal(encode_prompt(other, ["a cat"]), expected)
    assert torch.equal(encode_prompt(net, ["a cat"]), expected)


def test_only_the_last_texts_are_kept(net, calls):
    encode_prompt(net, [""])
    many = [f"a {i}" for i in range(MOST + 1)]
    assert len(encode_prompt(net, many)) == MOST + 1
    assert len(net.embeddings._kept) == MOST
    calls.clear()
    encode_prompt(net, many[-MOST:])
    assert calls == []
    encode_prompt(net, [""])
    assert calls == [1]


def test_under_inference_mode_the_result_can_be_trained_with(net):
    with torch.inference_mode():
        encode_prompt(net, ["a cat"])
    z = torch.rand(1, 4, 2, 2, requires_grad=True)
    net.predict_noise(z, encode_prompt(net, ["a cat"])).sum().backward()
    assert z.grad is not None


def test_a_failure_keeps_nothing(net):
    last_norm(net).weight.data.fill_(torch.nan)
    for _ in range(2):
        with pytest.raises(OSEDiffError, match="prompt embedding is not finite"):
            encode_prompt(net, ["a cat"])

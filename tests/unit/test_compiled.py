"""Compiling changes nothing but the speed, and where it fails nothing but a line of the log."""

import copy
import logging
import shutil

import pytest
import torch

from osediff_core import OSEDiff, restore
from osediff_core.device.compiled import compile_parts

LQ = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def parts(net):
    return [net.unet, net.vae.encoder, net.vae.decoder]


def compile_with(monkeypatch, backend):
    """Have `torch.compile` go to that backend."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda fn, **options: real(fn, backend=backend, **options))


def broken(graph, example):
    raise RuntimeError("no compiler found\nand more about it")


def test_where_compiling_fails_it_goes_on_without_and_says_one_line(model, monkeypatch, caplog):
    net = copy.deepcopy(model)
    compile_with(monkeypatch, broken)
    compile_parts(parts(net))
    with caplog.at_level(logging.INFO, "osediff_core"):
        first, again = restore(net, LQ, scale=1), restore(net, LQ, scale=1)
    assert torch.equal(first, restore(model, LQ, scale=1))
    assert torch.equal(first, again)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "going on without compiling" in caplog.text
    assert "and more about it" not in caplog.records[0].getMessage()


def test_where_it_is_not_available_nothing_is_compiled(model, monkeypatch, caplog):
    net = copy.deepcopy(model)

    def unavailable(fn, **options):
        raise RuntimeError("torch.compile is not supported here")

    monkeypatch.setattr(torch, "compile", unavailable)
    with caplog.at_level(logging.INFO, "osediff_core"):
        compile_parts(parts(net))
    assert "not supported here" in caplog.text
    assert torch.equal(restore(net, LQ, scale=1), restore(model, LQ, scale=1))


def test_running_out_of_memory_is_not_taken_for_a_failure_of_the_compiler(model, monkeypatch):
    layer = torch.nn.Linear(2, 2)

    def full(fn, **options):
        def call(*args):
            raise torch.OutOfMemoryError("out of memory")

        return call

    monkeypatch.setattr(torch, "compile", full)
    compile_parts([layer])
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            layer(torch.ones(1, 2))


@pytest.mark.slow
def test_from_pretrained_compiles_unet_and_vae_and_copies_are_plain(micro, monkeypatch):
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    compile_with(monkeypatch, backend)
    files = micro / "tiny_sd", micro / "osediff.pkl"
    net = OSEDiff.from_pretrained(*files, dtype="float32", device="cpu", compile=True)
    plain = copy.deepcopy(net)
    expected = restore(plain, LQ, scale=1)
    assert graphs == []
    torch.testing.assert_close(restore(net, LQ, scale=1), expected, atol=1e-5, rtol=0)
    assert len(graphs) >= 3
    assert net.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_compiled_equals_eager(model, caplog):
    net = copy.deepcopy(model)
    compile_parts(parts(net))
    with caplog.at_level(logging.INFO, "osediff_core"):
        compiled = restore(net, LQ, scale=1)
    assert caplog.records == []
    torch.testing.assert_close(compiled, restore(model, LQ, scale=1), atol=1e-5, rtol=0)

"""Memory that runs out at any operation: a smaller plan and the same picture, or a sentence."""

from __future__ import annotations

import sys
from contextlib import suppress

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from osediff_core import restore
from osediff_core.device.memory import NotEnoughMemoryError, first_that_fits
from osediff_core.errors import OSEDiffError
from osediff_core.pipeline.runtime import Runtime

GATE = 1e-4  # of pieces against the whole, as everywhere
ERRORS = (
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    MemoryError(),
)
FAST, SLOW = 6, 300  # operations that are tried, spread over all: every one of them takes hours


class Full(TorchDispatchMode):
    """Counts the operations, and lets those of number `first` to `last` find no memory."""

    def __init__(self, first=0, last=0):
        super().__init__()
        self.first, self.last, self.count, self.smaller = first, last, 0, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        if self.first <= self.count <= self.last:
            self.smaller = under_a_plan()
            raise ERRORS[self.count % len(ERRORS)]
        return func(*args, **(kwargs or {}))


def under_a_plan():
    """Whether the caller runs below `first_that_fits`, which has something smaller."""
    frame = sys._getframe()
    while frame is not None and frame.f_code is not first_that_fits.__code__:
        frame = frame.f_back
    return frame is not None


class Card(Runtime):
    """The processor by another name, so that several tiles are planned at once as on a card."""

    def device(self, model):
        return torch.device("cpu", 0)

    def free_memory(self, device):
        return 2**36


@pytest.fixture(scope="module")
def work(model):
    generator = torch.Generator().manual_seed(7)
    lq = torch.rand(1, 3, 24, 25, generator=generator)

    def run():
        model.embeddings.clear()
        return restore(model, lq, tile=8, overlap=2, runtime=Card())

    return run


@pytest.fixture(scope="module")
def expected(work):
    return work()


def operations(work):
    with Full() as counted:
        work()
    return counted.count


def checksum(model):
    return sum(float(p.double().abs().sum()) for p in model.state_dict().values())


def once(work, expected, number):
    """Let one operation fail; return whether there was a smaller plan."""
    with Full(number, number) as full, suppress(NotEnoughMemoryError):
        out = work()
        assert full.smaller, f"operation {number}"
        assert (out - expected).abs().max() <= GATE, f"operation {number}"
        return True
    assert not full.smaller, f"operation {number}"
    return False


def for_good(work, number):
    """Let every operation from one on fail: what was tried is said, whatever the allocator said."""
    with Full(number, sys.maxsize) as full, pytest.raises(NotEnoughMemoryError) as caught:
        work()
    assert "take a smaller scale" in str(caught.value)
    assert "allocate" not in str(caught.value)
    assert ("tried: " in str(caught.value)) == full.smaller


def numbers(work, most):
    last = operations(work)
    assert last > SLOW
    return range(1, last + 1, last // most)


@pytest.mark.parametrize("most", [FAST, pytest.param(SLOW, marks=pytest.mark.slow)])
def test_one_operation_finds_no_memory(model, work, expected, most):
    before = checksum(model)
    gone_on = [once(work, expected, number) for number in numbers(work, most)]
    print(f"{len(gone_on)} operations, {sum(gone_on)} times the same picture by a smaller plan")
    assert sum(gone_on) > len(gone_on) // 2
    assert checksum(model) == before
    assert torch.equal(work(), expected)


@pytest.mark.parametrize("most", [FAST // 3, pytest.param(SLOW, marks=pytest.mark.slow)])
def test_no_operation_finds_memory_any_more(model, work, expected, most):
    before = checksum(model)
    for number in numbers(work, most):
        for_good(work, number)
    assert checksum(model) == before
    assert torch.equal(work(), expected)


def test_another_error_is_not_taken_for_a_lack_of_memory(model, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(type(model), "predict_noise", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        restore(model, torch.zeros(1, 3, 8, 8))
    assert not isinstance(caught.value, OSEDiffError)

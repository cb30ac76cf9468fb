"""Restoring over and over takes no more memory than at first, whatever comes and goes wrong between."""

from __future__ import annotations

import sys

import pytest
import torch

from osediff_core import restore
from osediff_core.errors import OSEDiffError

from .growth import PERIOD, growth

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc for what is in memory"),
]
TIMES = 500
COLOURS = ("adain", "wavelet", "none")


class CancelledError(Exception):
    """What a person's Cancel raises."""


def cancel(done, total):
    if done * 2 >= total:
        raise CancelledError


def one(model, number):
    """One restoration: ten kinds in turn, two of which fail, and one is cancelled."""
    kind = number % PERIOD
    generator = torch.Generator().manual_seed(number)
    lq = torch.rand(1, 3, 9 + 4 * kind, 33 - 3 * kind, generator=generator)
    alpha = torch.rand(1, 1, *lq.shape[2:], generator=generator) if kind % 3 == 0 else None
    options = {"prompt": f"picture {number}", "color": COLOURS[number % 3], "alpha": alpha}
    if kind == 3:
        lq[0, 0, 0, 0] = float("nan")
    elif kind == 5:
        options["prompt"] = ["two", "for one"]
    elif kind == 7:
        options["progress"] = cancel
    try:
        restore(
            model, lq, tile=8 if kind % 2 else "auto", overlap=2, vae=64 if kind == 8 else "auto", **options
        )
    except (OSEDiffError, CancelledError) as error:
        return type(error)
    return None


def test_restorations(model):
    ends = [one(model, number) for number in range(PERIOD)]
    assert ends.count(OSEDiffError) == 2
    assert ends.count(CancelledError) == 1
    found = growth(lambda number: one(model, number), TIMES)
    print(f"{TIMES} restorations: {found}")
    assert found.is_flat, found


def test_a_tensor_kept_of_every_restoration_is_seen(model):
    """The negative control, of the size of a picture and with nothing else about it."""
    kept = []

    def leaking(number):
        one(model, number)
        kept.append(torch.ones(1, 3, 256, 256))

    found = growth(leaking, 200)
    assert not found.is_flat
    assert found.tensors > 50
    assert found.resident > 0

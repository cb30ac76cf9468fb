"""Graphs run over and over in one process, as ComfyUI's, take no more memory than at first."""

from __future__ import annotations

import sys

import pytest

from tests.faults.growth import PERIOD, growth

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc for what is in memory"),
]
TIMES = 300


@pytest.fixture
def graph(comfy, stub, nodes, photo):
    """A function that runs one of ten graphs: whole or in steps, failing, cancelled, or with a new model."""
    wires = {}

    def run(number):
        kind = number % PERIOD
        comfy.progress.clear()
        comfy.said.clear()
        comfy.loads.clear()
        comfy.loaded = [ref for ref in comfy.loaded if ref() is not None]
        comfy.cancel_after = 2 if kind == 7 else None
        if kind == 0:
            wires.clear()
            inputs = {"base": "tiny_sd", "weights": "osediff.pkl", "dtype": "float32", "strength": 1.0}
            wires["model"] = nodes["OSEDiffLoader"].run(**inputs).args[0]
        image = photo(9 + 3 * kind, 31 - 2 * kind, batch=1 + (kind == 4), channels=4 if kind == 6 else 3)
        scale = -1.0 if kind == 3 else 2.0
        try:
            (steps if kind % 2 == 0 else whole)(nodes, wires["model"], image, scale, f"picture {number}")
        except (ValueError, stub.InterruptProcessingException) as error:
            return type(error).__qualname__
        return None

    return run


def whole(nodes, model, image, scale, prompt):
    inputs = {"scale": scale, "prompt": prompt, "color": "wavelet", "tile": "48"}
    nodes["OSEDiffUpscale"].run(model=model, image=image, **inputs)


def steps(nodes, model, image, scale, prompt):
    words = nodes["OSEDiffTextEncode"].run(model=model, prompt=prompt).args[0]
    latent, lq = nodes["OSEDiffLQEncode"].run(model=model, image=image, scale=scale).args
    inputs = {"latent": latent, "conditioning": words, "tile": "auto", "overlap": 32}
    latent = nodes["OSEDiffDenoise"].run(model=model, **inputs).args[0]
    nodes["OSEDiffDecode"].run(model=model, latent=latent, reference=lq, color="adain")


def test_graphs(graph):
    ends = [graph(number) for number in range(PERIOD)]
    assert ends.count("OSEDiff") == 1
    assert ends.count("InterruptProcessingException") == 1
    assert ends.count(None) == PERIOD - 2
    found = growth(graph, TIMES)
    print(f"{TIMES} graphs: {found}")
    assert found.is_flat, found


def test_a_model_kept_of_every_loader_is_seen(graph, nodes):
    """The negative control."""
    kept = []

    def leaking(number):
        graph(number)
        if number % PERIOD == 0:
            inputs = {"base": "tiny_sd", "weights": "osediff.pkl", "dtype": "float32", "strength": 1.0}
            kept.append(nodes["OSEDiffLoader"].run(**inputs).args[0])

    assert not growth(leaking, 80).is_flat

"""OSEDiff Apply with ComfyUI's own model, VAE and sampler, against the core. Opt-in, as test_server.py."""

from __future__ import annotations

import pytest

GATE = 1e-3  # of pictures in [0, 1], float32
FAR = 0.02  # what another way is away at least


@pytest.fixture(scope="module")
def found(in_comfy):
    """What in_comfy/native.py finds."""
    return in_comfy("native")


def test_one_step_of_the_stock_sampler_is_osediff(found):
    assert found["picture"] < GATE
    assert found["merged"] < GATE
    assert found["plain sampling"] > FAR
    assert found["without vae"] > FAR
    assert max(found["samplers"].values()) < GATE
    assert max(found["schedulers"].values()) < GATE


def test_tiles_are_those_of_the_core(found):
    assert found["tiles"] < GATE
    assert found["whole instead of tiles"] > 2 * GATE


def test_every_layer_is_patched_at_full_size(found):
    assert found["counted"] == {"unet": 258, "biases": 1, "vae": 32}  # the bias is conv_in's
    assert found["warned"] == []


def test_what_came_in_is_not_changed(found):
    assert found["stock again"]
    assert found["untouched"] == [True, True]
    assert found["patches of what came in"] == [0, 0, 0]
    assert not found["type"]


def test_another_model_in_between_changes_nothing(found):
    assert found["again"] == 0
    assert found["sigmas"]  # the schedule is the original's own
    assert found["sigma"] < 1e-6


def test_another_lora_adds_to_it_before_and_behind(found):
    assert found["lora before"] < GATE
    assert found["lora after"] < GATE
    assert found["lora's effect"] > FAR


def test_other_models_are_refused_in_a_sentence(found):
    said = found["refused"]
    assert "predicts noise (EPS), got V_PREDICTION" in said["v"]
    assert "another family (width 768)" in said["sd1"]
    assert "has OSEDiff on it already" in said["twice"]
    assert "does not fit this MODEL (1 of " in said["shape"]
    assert "does not fit this VAE (1 of 33 layers, the first:" in said["vae"]
    assert "there is no encoder.down_blocks.7" in said["vae"]
    assert said["fits"] == ""

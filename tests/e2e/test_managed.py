"""The core's networks as ComfyUI's own: layers, patchers, memory. In a real ComfyUI, as test_server.py."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def found(in_comfy):
    """What in_comfy/managed.py finds."""
    return in_comfy("managed")


def test_unet_and_vae_are_of_comfyuis_layers_under_its_patchers(found):
    assert found["patchers"] == found["networks"] == [True] * 3
    assert found["foreign layers"] == 0
    assert found["equal"]  # bit for bit what the command line computes
    assert found["another"] > 0.1


def test_with_a_third_of_the_weights_moved_in_the_picture_is_the_same(found):
    assert all(0 < cast < layers for cast, layers in found["cast"])
    assert found["loaded"] == 4  # text encoder, VAE, UNet, VAE
    assert found["partly"]
    assert found["partly in pieces"] < 1e-5


def test_the_networks_run_where_none_of_their_weights_is(found):
    assert found["elsewhere"] == []
    assert len(found["elsewhere, not cast"]) >= 3  # the control: layers that do not bring their weights


def test_half_precision_where_it_cannot_be_computed_is_kept_and_cast(found):
    """ComfyUI's own rule for a processor."""
    assert found["half"] == ["torch.float32", "torch.float16", "torch.float32"]
    assert 0 < found["half picture"] < 0.01


def test_layers_that_have_no_weights_until_they_are_read_get_them(found):
    assert found["lazy layers"]
    assert found["lazily"]


def test_freed_is_freed(found):
    assert found["freed"] == {"used": 3, "after the button": 0, "alive": 0}

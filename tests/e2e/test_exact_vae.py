"""VAE Encode and Decode in exact tiles over ComfyUI's own VAEs. In a real ComfyUI, as test_server.py."""

from __future__ import annotations

import pytest

GATE = 1e-4  # float32


@pytest.fixture(scope="module")
def found(in_comfy):
    """What in_comfy/exact_vae.py finds."""
    return in_comfy("exact_vae")


@pytest.mark.parametrize("family", ["SD1, SD2, SDXL", "16 channels"])
def test_tiles_give_what_the_whole_gives(found, family):
    measured = found["families"][family]
    assert max(measured["apart"].values()) <= GATE
    assert measured["spread"] > 0.05
    assert measured["stock's own tiles"] > 50 * GATE  # the control


@pytest.mark.parametrize("family", ["SD1, SD2, SDXL", "16 channels"])
def test_the_weights_are_the_stock_vaes_own_and_stay_where_they_are(found, family):
    measured = found["families"][family]
    assert measured["shared"]
    assert measured["in place"]
    assert measured["still"] == 0


def test_other_builds_are_refused_by_name(found):
    said = found["refused"]
    assert "got TAESD of another build (it has no encoder.conv_in)" in said["taesd"]
    assert "it has other layers" in said["bn"]
    assert "encoder.conv_norm_out" in said["eps"]
    assert said["fits"] == ""

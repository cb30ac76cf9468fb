"""The micro model whose outputs are recorded: small enough to be loaded for every file of tests."""

from pathlib import Path

import pytest

from osediff_core import OSEDiff

MICRO = Path(__file__).parents[1] / "golden_micro"


@pytest.fixture(scope="session")
def micro():
    """The folder of the micro model: tiny_sd/ and osediff.pkl."""
    return MICRO


@pytest.fixture(scope="session")
def model(micro):
    """The micro model, float32 on the CPU. Copy it before changing it."""
    return OSEDiff.from_pretrained(micro / "tiny_sd", micro / "osediff.pkl", dtype="float32", device="cpu")

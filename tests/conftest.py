"""The micro model whose outputs are recorded: small enough to load wherever a test needs a whole one."""

import os
from pathlib import Path

import pytest

# Models this small gain nothing from threads, and on a busy machine lose minutes waiting for each other.
# Set before torch is imported, so that the tests' own subprocesses have it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def micro():
    """The folder of the micro model: tiny_sd/ and osediff.pkl."""
    return Path(__file__).parent / "golden_micro"


@pytest.fixture(scope="session")
def model(micro):
    """The micro model, float32 on the CPU. Copy it before changing it."""
    from osediff_core import OSEDiff

    return OSEDiff.from_pretrained(micro / "tiny_sd", micro / "osediff.pkl", dtype="float32", device="cpu")

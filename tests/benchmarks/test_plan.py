"""What a plan says of memory is near what is taken, and never below it."""

import sys
from pathlib import Path

import pytest

from benchmarks.plan import one_row
from osediff_core.pipeline.plan import OVERHEAD


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux says what a process held")
@pytest.mark.parametrize("row", [("128", "128", "auto"), ("256", "256", "auto"), ("384", "512", "256")])
def test_the_demos_peaks(row):
    command = [sys.executable, "-m", "benchmarks.plan", "--one", *row]
    planned, measured = one_row(command)
    print(f"planned {planned / 2**20:.0f} MiB, measured {measured / 2**20:.0f} MiB")
    # A quarter above, and the reserve for what allocators take, which is much of what a small picture takes.
    assert measured <= planned <= 1.25 * measured + OVERHEAD

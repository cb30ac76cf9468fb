"""What a plan says of memory is near what is taken, and never below it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux says what a process held")
@pytest.mark.parametrize("row", [("128", "128", "auto"), ("256", "256", "auto"), ("384", "512", "256")])
def test_the_demos_peaks(row):
    command = [sys.executable, "-m", "benchmarks.plan", "--one", *row]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    planned, measured = map(int, out.split())
    print(f"planned {planned / 2**20:.0f} MiB, measured {measured / 2**20:.0f} MiB")
    assert measured <= planned <= 1.25 * measured

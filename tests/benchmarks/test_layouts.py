"""The program that measures layouts runs, with the switch that it says."""

import argparse

import pytest

from benchmarks.layouts import WAYS, WORKS, row


@pytest.mark.slow
@pytest.mark.parametrize("way", ["4 KB pages", "huge pages, channels_last"])
def test_a_way_is_measured_in_a_process_of_its_own(way):
    cells = row(argparse.Namespace(size=64, rounds=1), way).strip("|").split("|")
    assert cells[0].strip() == way in WAYS
    totals = [float(cell.split()[0]) for cell in cells[1 : 1 + len(WORKS)]]
    assert len(totals) == len(WORKS)

"""The programs that measure training run, on the micro base, and leave nothing out."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.data_rate import rate, with_source
from train.config import TrainConfig

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["bf16", "float32"])
def test_both_ways_take_steps_in_processes_of_their_own(micro, form):
    command = [
        sys.executable,
        "benchmarks/train_memory.py",
        "--base",
        str(micro / "tiny_sd"),
        "--format",
        form,
    ]
    done = subprocess.run(
        [*command, "--sizes", "64", "--threads", "1"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[3:]]
    assert [row[:2] for row in rows] == [["copies", "64²"], ["ours", "64²"]]
    assert all(float(cell) > 0 for row in rows for cell in row[2:]), done.stdout


def test_pairs_are_counted_by_the_clock_and_by_the_processor(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    config = with_source(TrainConfig(), tmp_path)
    config = replace(config, data=replace(config.data, crop=32))
    here, apart = rate(config, 0, 3), rate(config, 1, 3)
    assert here["pairs_per_s"] == here["pairs_per_s_and_worker"] > 0
    assert here["processor_s_per_pair"] > 0
    assert "processor_s_per_pair" not in apart  # the time of another process

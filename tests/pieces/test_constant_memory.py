"""A queue of 50 pictures and a batch of 64 frames run at constant memory."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core import restore
from osediff_core.commands.restore_files import Settings, restore_files
from osediff_core.pictures.jobs import Job

STATUS = Path("/proc/self/status")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STATUS.exists(), reason="only Linux says what a process holds"),
]


def resident():
    """How much memory this process holds, in bytes."""
    gc.collect()
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def grew(held, output=0):
    """By which share the memory grew from the fifth picture to the last, less the output."""
    return (held[-1] - output) / held[4] - 1


def test_a_queue_of_50_pictures(model, tmp_path):
    jobs = [Job(tmp_path / f"{i}.png", tmp_path / f"out_{i}.png") for i in range(50)]
    for i, job in enumerate(jobs):
        pixels = np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(job.source)
    held = []
    for _, reason in restore_files(model, jobs, Settings(), lambda job: None):
        assert reason is None
        held.append(resident())
    assert abs(grew(held)) < 0.02


def frames(model, keep):
    """Restore a batch of 64 frames; return what was held after each, and the size of the result."""
    held, kept = [], []

    def beat(done, total):
        if done % (total // 64) == 0:  # as many steps for each frame
            held.append(resident())
            if keep:
                kept.append(torch.ones(2**18))  # a leak of 1 MiB for each frame, as a control

    lq = torch.rand(64, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    out = restore(model, lq, progress=beat)
    assert len(held) == len(out) == 64
    return held, out.nbytes


def test_a_batch_of_64_frames(model):
    held, output = frames(model, keep=False)
    # The output's pages are there once they are written: all but those of the first frames come later.
    assert abs(grew(held, output * 59 // 64)) < 0.02


def test_the_measure_sees_a_leak(model):
    held, output = frames(model, keep=True)
    assert grew(held, output * 59 // 64) > 0.02

"""Steps of a training: seconds, memory, the host's part, and how often it waits for the card."""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial

import torch

from benchmarks.card.log import Cells, Log
from benchmarks.card.subjects import Subject
from benchmarks.train_memory import ours, random_batch

TRAINING = "Training, bf16"


def measure(log: Log, subject: Subject) -> None:
    """Note a row for every batch."""
    for batch in subject.scale.train_batches:
        label = {"size": str(subject.scale.train_side), "batch": str(batch)}
        log.row(TRAINING, label, partial(_row, log, subject, batch))


def _row(log: Log, subject: Subject, batch: int) -> Cells:
    """Take the steps, the first of them uncounted."""
    machine, scale = log.machine, subject.scale
    model = subject.like(torch.float32)
    take = ours(model, argparse.Namespace(format="bf16", recompute="decoder"), subject.embeds)
    batches = [
        random_batch(model, scale.train_side, range(n * batch, (n + 1) * batch))
        for n in range(scale.train_steps)
    ]
    take(*batches[0])
    machine.wait()

    def steps() -> tuple[float, float]:
        start = time.perf_counter(), time.process_time()
        for one in batches[1:]:
            take(*one)
        machine.wait()
        return time.perf_counter() - start[0], time.process_time() - start[1]

    (seconds, processor), taken = machine.peak(steps)
    done = len(batches) - 1
    return {
        "steps": float(done),
        "seconds a step": seconds / done,
        "beside weights and optimizers, GiB": taken,
        "processor's share": processor / seconds,
        "waits a step": _waits(partial(take, *batches[-1])) if machine.is_card else "not on a processor",
    }


def _waits(step: partial[object]) -> float:
    """Return how often a step makes the host wait for the card, by what PyTorch warns of."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return float(sum("synchronizing" in str(one.message) for one in seen))

"""The time of a run is divided among waiting for batches, steps and the rest."""

import json
from pathlib import Path

import pytest
import torch

from train.engine.loop import train
from train.watch.pace import Pace, peak_memory


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds


def test_shares_add_up_and_begin_anew():
    clock = Clock()
    pace = Pace(clock)

    def loader():
        for number in range(2):
            clock.passes(1)
            yield number

    for _ in pace.each(loader()):
        with pace.spent("step"):
            clock.passes(5)
        pace.seen(4)
        clock.passes(2)
    assert pace.numbers() == {
        "pace/pictures per second": pytest.approx(8 / 16),
        "pace/share of data": pytest.approx(2 / 16),
        "pace/share of step": pytest.approx(10 / 16),
        "pace/share of the rest": pytest.approx(4 / 16),
    }
    clock.passes(1)
    assert pace.numbers()["pace/share of the rest"] == 1
    assert pace.numbers()["pace/pictures per second"] == 0


def test_a_step_that_fails_is_counted():
    clock = Clock()
    pace = Pace(clock)

    def fail():
        with pace.spent("step"):
            clock.passes(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert pace.numbers()["pace/share of step"] == 1


def test_a_run_logs_its_pace(config):
    made = config(run={"steps": 4, "log_every": 2})
    train(made)
    lines = [json.loads(line) for line in (Path(made.run.out) / "numbers.jsonl").read_text().splitlines()]
    paces = [line for line in lines if "pace/pictures per second" in line]
    assert [line["step"] for line in paces] == [2, 4]
    for line in paces:
        assert line["pace/pictures per second"] > 0
        assert sum(v for name, v in line.items() if "share" in name) == pytest.approx(1)
        assert line["pace/share of step"] > 0
        assert line.keys() >= peak_memory(torch.device("cpu")).keys()

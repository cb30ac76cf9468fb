"""`python -m benchmarks.card` runs from end to end on a processor, in time, whatever fails on its way."""

import json
import math
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch

from benchmarks.card import __main__ as program
from benchmarks.card import correctness, speed
from benchmarks.card.log import LATE, NO_CARD, STATE, Log
from benchmarks.card.machine import Machine
from benchmarks.card.page import FILE, PAGE, table
from benchmarks.card.subjects import subject
from benchmarks.card.training import TRAINING


@pytest.fixture
def log():
    log = Log(Machine(torch.device("cpu")), lambda line: None)
    log.until = time.monotonic() + 60
    return log


def run(monkeypatch, out, *more):
    monkeypatch.setattr(sys, "argv", ["card", str(out), "--device", "cpu", "--tiny", *more])
    program.main()
    return json.loads((out / FILE).read_text()), (out / PAGE).read_text()


@pytest.mark.slow
def test_it_runs_on_a_processor_from_end_to_end(monkeypatch, tmp_path, capsys):
    found, page = run(monkeypatch, tmp_path)
    tables = found["tables"]
    expected = {correctness.GOLDEN, correctness.PICTURE, correctness.CUT, correctness.PLANNED}
    expected |= {correctness.CAPPED, speed.PEAK, speed.SPEED, speed.GRAPHS, speed.KERNELS, TRAINING}
    assert tables.keys() == expected
    states = {row.get(STATE) for rows in tables.values() for row in rows}
    assert states == {None, NO_CARD}
    for name in (correctness.GOLDEN, correctness.PICTURE):
        assert {row["format"] for row in tables[name] if STATE in row} == {"float32, TF32"}
    for name in (correctness.CAPPED, speed.GRAPHS):
        assert {row[STATE] for row in tables[name]} == {NO_CARD}
    exact = [row for row in tables[correctness.GOLDEN] if row["format"] == "float32"]
    assert all(row["most, levels"] < 0.03 for row in exact)
    assert all(row["largest difference"] < 1e-4 for row in tables[correctness.CUT])
    assert all(row["warm, s"] > 0 for row in tables[speed.SPEED] if STATE not in row)
    assert sum(row["share"] for row in tables[speed.KERNELS] if row["kernel"] != "all") < 1.01
    assert all(f"## {name}\n" in page for name in tables)
    assert "so the figures say nothing" in page
    assert NO_CARD in page


def test_what_there_is_no_time_for_is_named(monkeypatch, tmp_path, capsys):
    started = time.monotonic()
    found, page = run(monkeypatch, tmp_path, "--minutes", "0")
    states = {row.get(STATE) for rows in found["tables"].values() for row in rows}
    assert states == {LATE, NO_CARD}
    assert LATE in page
    assert time.monotonic() > started


def test_a_row_that_fails_is_written_down_and_the_rest_goes_on(log):
    def fails():
        raise RuntimeError("the card is gone\nand more")

    log.row("table", {"way": "a"}, fails)
    log.row("table", {"way": "b"}, lambda: {"seconds": 1.5, "dB": math.nan})
    log.part("part", log.until, fails)
    assert log.tables["table"] == [
        {"way": "a", STATE: "failed: RuntimeError: the card is gone"},
        {"way": "b", "seconds": 1.5, "dB": "nan"},
    ]
    assert log.tables["part"] == [{STATE: "failed: RuntimeError: the card is gone"}]
    assert table(log.tables["table"]).splitlines() == [
        "| way | seconds | dB | state |",
        "| --- | --- | --- | --- |",
        "| a |  |  | failed: RuntimeError: the card is gone |",
        "| b | 1.5 | nan |  |",
    ]


def test_a_row_ends_with_its_time_even_where_errors_are_swallowed(log):
    def endless():
        while True:
            with suppress(Exception):
                time.sleep(0.01)

    log.until = time.monotonic() + 0.1
    assert "not run to its end" in log.row("table", {"way": "a"}, endless)[STATE]
    assert log.row("table", {"way": "b"}, dict)[STATE] == LATE


def test_peaks_are_of_the_work(log):
    if log.machine.peak(lambda: None)[1] is None:
        pytest.skip("only Linux says what this process takes")
    _, taken = log.machine.peak(lambda: torch.ones(64 * 2**20, dtype=torch.uint8))
    assert 0.05 < taken < 0.2


def test_pictures_are_compared_in_decibels_and_levels():
    one = torch.full((1, 3, 4, 4), 0.5)
    assert correctness.far(one, one) == {"dB": "equal", "most, levels": 0}
    found = correctness.far(one + 0.1, one)
    assert found["dB"] == pytest.approx(20, abs=1e-3)
    assert found["most, levels"] == pytest.approx(25.5, abs=1e-3)


def test_a_fallback_is_counted(monkeypatch):
    monkeypatch.setattr(correctness.memory, "release", lambda: None)
    with correctness._fallbacks() as said:
        correctness.memory.first_that_fits(
            [1, 2], lambda n: n if n == 2 else (_ for _ in ()).throw(MemoryError())
        )
    assert len(said) == 1
    assert "memory ran out" in said[0]


def test_a_way_and_cuts_are_measured(log):
    tiny = subject(log.machine.device, tiny=True)
    found = speed._row(log, tiny, torch.float32, 2.0, "ours", tiny.scale.small, 2)
    assert found["images/s"] == pytest.approx(2 / found["warm, s"])
    assert found["of the matrix peak"] == pytest.approx(found["TMACs"] / found["warm, s"] / 2)
    correctness._cut(log, tiny)
    assert all(row["largest difference"] < 1e-4 for row in log.tables[correctness.CUT])


def test_a_cap_is_a_share_of_the_card_and_taken_off_again(log, monkeypatch):
    shares = []
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30)
    )
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, _: shares.append(share))
    with pytest.raises(MemoryError), log.machine.capped(8):
        raise MemoryError
    assert shares == [0.1, 1.0]


def test_a_card_is_called_by_its_number(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name, index in {"cuda": 3, "cuda:1": 1}.items():
        assert Machine(torch.device(name)).device == torch.device("cuda", index)
    assert chosen == [torch.device("cuda", 3), torch.device("cuda", 1)]


def test_a_plan_for_a_cap_knows_what_is_taken_of_it(log, monkeypatch):
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 3 * 2**30)
    capped = correctness.Capped(4)
    assert capped.free_memory(torch.device("cuda")) == 2**30
    assert correctness.Capped(2).free_memory(torch.device("cuda")) == 0
    assert capped.free_memory(torch.device("cpu")) != 2**30

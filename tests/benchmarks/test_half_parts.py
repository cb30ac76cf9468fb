"""The curve of bfloat16 by parts has every choice of parts, and each counts what it says."""

import torch

from benchmarks.half_parts import CHOICES, PARTS, Timed, compare


def test_every_choice_of_parts_is_measured(micro):
    options = {"base": micro / "tiny_sd", "weights": micro / "osediff.pkl", "device": "cpu"}
    pictures = torch.rand(2, 1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    rows = {row.choice: row for row in compare(options, pictures, scale=2)}
    assert set(rows) == set(CHOICES[1:])
    assert all(20 < row.worst <= row.mean < 120 for row in rows.values())
    alone = [rows[tuple(part == name for name in PARTS)] for part in PARTS]
    assert rows[True, True, True].mean < max(row.mean for row in alone)
    assert str(rows[True, False, True]).startswith("| encoder, decoder | ")


def test_the_seconds_of_a_choice_are_those_of_its_parts():
    timed = Timed()
    for half in (False, True):
        for part, seconds in zip(PARTS, (1.0, 2.0, 4.0), strict=True):
            timed.seconds[part, half] = [seconds / (1 + half), seconds / (1 + half)]
    assert timed.of((False, False, False)) == 7
    assert timed.of((False, True, False)) == 6
    assert timed.of((True, True, True)) == 3.5

"""What was used last stays; decoded pictures stay all together or not at all."""

from types import SimpleNamespace

import torch

from train.data.decoded import Decoded
from train.prompts.recent import Recent


def test_what_was_used_longest_ago_is_forgotten():
    recent: Recent[str, int] = Recent(2)
    made = []

    def get(key):
        return recent.get(key, lambda: made.append(key) or len(made))

    assert [get(key) for key in ("a", "b", "a", "c", "a", "b")] == [1, 2, 1, 3, 1, 4]
    assert made == ["a", "b", "c", "b"]


def test_nothing_is_kept_without_room():
    none, made = Recent(0), []
    for _ in range(2):
        none.get("a", lambda: made.append("a"))
    assert made == ["a", "a"]


def reads(budget, order, expected, size=lambda name: 10):
    """Ask for pictures in an order; returns how many were read, and the bytes kept at most and at the end."""
    decoded, read, used = Decoded(budget), [], []
    decoded.expect(expected)
    for name in order:
        picture = SimpleNamespace(rgb=torch.zeros(size(name), dtype=torch.uint8))
        decoded.get(name, lambda name=name, picture=picture: read.append(name) or picture)
        used.append(decoded.used)
    return len(read), max(used), used[-1]


def test_pictures_that_all_fit_are_read_once():
    names = [str(n) for n in range(10)]
    assert reads(100, names * 3, names) == (10, 100, 100)


def test_pictures_that_do_not_all_fit_take_no_memory():
    """That is seen from the first eight of them, long before the budget is used up."""
    names = [str(n) for n in range(1000)]
    assert reads(9000, names * 2, names) == (2000, 70, 0)


def test_a_few_that_are_larger_than_all_before_end_it_too():
    names = [str(n) for n in range(10)]
    assert reads(150, names * 2, names, lambda name: 100 if name == "9" else 10) == (20, 90, 0)
    assert reads(5, names[:2] * 2, names[:2]) == (4, 0, 0), "before the mean is known"


def test_no_budget_keeps_nothing():
    assert reads(0, ["a", "a"], ["a"]) == (2, 0, 0)

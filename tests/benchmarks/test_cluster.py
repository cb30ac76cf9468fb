"""The projection for many cards, held to cases that can be counted by hand."""

from __future__ import annotations

import pytest

from benchmarks.cluster import BYTES, Cluster, exchange_seconds, main, pictures_per_second, table

LINKS = Cluster(inside=20e9, between=2e9, cards_per_node=8, latency=0.0)


def simulated_ring(cards: int, numbers: int, bandwidth: float) -> float:
    """Pass pieces around a ring until everybody has the sum; returns the seconds that a link is in use."""
    sums = [[{card} for _ in range(cards)] for card in range(cards)]  # whose part is in each card's pieces
    seconds, piece = 0.0, numbers / cards * BYTES / bandwidth
    for turn in range(2 * (cards - 1)):
        sent = [(card, (card - turn) % cards) for card in range(cards)]
        moved = [(card, number, set(sums[card][number])) for card, number in sent]
        for card, number, content in moved:
            sums[(card + 1) % cards][number] |= content
        seconds += piece  # all links work at once
    assert all(part == set(range(cards)) for card in sums for part in card)
    return seconds


@pytest.mark.parametrize("cards", [2, 3, 8])
def test_the_formula_is_what_a_ring_takes(cards):
    assert exchange_seconds(cards, 840, LINKS) == pytest.approx(simulated_ring(cards, 840, LINKS.inside))


def test_one_card_exchanges_nothing():
    assert exchange_seconds(1, 10**9, Cluster(1.0, 1.0)) == 0
    assert pictures_per_second(1, 0.5, 3, 10**9, Cluster(1.0, 1.0)) == 6


def test_the_slowest_link_of_the_ring_counts():
    inside, across = (exchange_seconds(cards, 10**6, LINKS) * cards / (cards - 1) for cards in (8, 9))
    assert across == pytest.approx(10 * inside)


def test_every_exchange_waits_for_its_messages():
    late = Cluster(1e9, 1e9, latency=1e-3)
    assert exchange_seconds(5, 0, late) == pytest.approx(2 * 8 * 1e-3)


def test_a_shorter_step_gains_less_from_many_cards():
    shares = [pictures_per_second(64, t, 1, 10**8, LINKS) * t / 64 for t in (0.1, 1.0, 10.0)]
    assert shares == sorted(shares)
    assert shares[0] < 0.5 < 0.9 < shares[2] < 1


def test_the_table_has_a_line_for_each_number_of_cards():
    lines = table(0.5, 2, 0, {"fast": LINKS}).splitlines()
    assert lines[2] == "| 1 | 4.00 (100.0%) |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 1", "| 8", "| 64", "| 512"]
    assert lines[5] == "| 512 | 2048.00 (100.0%) |"  # nothing to exchange, no latency


def test_the_command_line_is_the_table(capsys):
    main(["--step-seconds", "0.5", "--parameters", "1000000", "--between", "1", "--inside", "4"])
    wanted = table(0.5, 1, 10**6, {"1 GB/s between nodes": Cluster(4e9, 1e9)})
    assert capsys.readouterr().out == wanted + "\n"

"""What many cards would do, from a step time, what is trained and how fast the links are: arithmetic.

python benchmarks/cluster.py --step-seconds 3.6
python benchmarks/cluster.py --step-seconds 0.5 --parameters 8492620 --between 3 25

One card takes a step in the time given; n cards take it at once and then exchange gradients around a ring.
A ring is as fast as its slowest link, which lies between nodes once there are several.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

TRAINED = 4_436_908 + 4_055_712
"""Parameters of generator and critic at rank 4 on Stable Diffusion 2.1 (`python -m train CONFIG --plan`)."""
CARDS = (1, 8, 64, 512)
BYTES = 4
"""Gradients are exchanged in float32."""


@dataclass(frozen=True)
class Cluster:
    """Links: bytes per second inside a node and between nodes, and the least seconds of a message."""

    inside: float
    between: float
    cards_per_node: int = 8
    latency: float = 30e-6
    exchanges: int = 2
    """Exchanges per step: one for the generator, one for the critic."""


def exchange_seconds(cards: int, parameters: int, cluster: Cluster) -> float:
    """Return what a ring all-reduce of float32 gradients adds to a step.

    Each of n cards sends 2 (n - 1) pieces of 1 / n of the gradients, one after the other (Patarasuk and Yuan,
    2009), in each exchange; all exchanges of a step together carry `parameters` numbers.
    """
    link = cluster.inside if cards <= cluster.cards_per_node else cluster.between
    pieces = 2 * (cards - 1)
    return pieces / cards * parameters * BYTES / link + cluster.exchanges * pieces * cluster.latency


def pictures_per_second(
    cards: int, step_seconds: float, batch: int, parameters: int, cluster: Cluster
) -> float:
    """Return the pictures per second of `cards` cards with `batch` pictures on each."""
    return cards * batch / (step_seconds + exchange_seconds(cards, parameters, cluster))


def table(step_seconds: float, batch: int, parameters: int, clusters: dict[str, Cluster]) -> str:
    """Lay out pictures per second, and the share of n times one card, in Markdown."""
    lines = [f"| cards | {' | '.join(clusters)} |", "|---" * (len(clusters) + 1) + "|"]
    for cards in CARDS:
        cells = []
        for cluster in clusters.values():
            rate = pictures_per_second(cards, step_seconds, batch, parameters, cluster)
            cells.append(f"{rate:.2f} ({rate * step_seconds / (cards * batch):.1%})")
        lines.append(f"| {cards} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step-seconds", type=float, required=True, help="of one card, measured or assumed")
    parser.add_argument("--batch", type=int, default=1, help="pictures of a card in a step (default 1)")
    parser.add_argument("--parameters", type=int, default=TRAINED, help=f"trained ones (default {TRAINED})")
    parser.add_argument("--between", type=float, nargs="+", default=[3.0, 25.0], help="GB/s between nodes")
    parser.add_argument("--inside", type=float, default=20.0, help="GB/s between the cards of a node")
    parser.add_argument("--cards-per-node", type=int, default=8)
    args = parser.parse_args(argv)
    clusters = {
        f"{speed:g} GB/s between nodes": Cluster(args.inside * 1e9, speed * 1e9, args.cards_per_node)
        for speed in args.between
    }
    print(table(args.step_seconds, args.batch, args.parameters, clusters))


if __name__ == "__main__":
    main()

"""`osediff cost`: parameters and multiply-accumulates of the full-size model, beside the paper's table."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .console import DONE, answer, command_parser, show

if TYPE_CHECKING:
    from ..tools.cost import PartCost, Trainable

NOTES = """\
Why the figures differ, where they do:
- The paper's {paper} M are generator and critic (its finetuned regularizer) together: {lora} M of low-rank
  pairs at rank 4, and {all} M with the generator's conv_in, which the published code trains in full and the
  paper does not mention. A checkpoint holds the generator's alone, {generator} M; folded into the base they
  cost nothing when pictures are restored.
- The paper counts no multiply-accumulates. Here they are those of convolutions, matrix products and
  attention; a picture of several tiles costs more, because tiles overlap.
- The tagger is what tags need of RAM, with DAPE folded in. The published code also loads RAM's networks for
  captions, which take part in nothing.
- Seconds are the paper's, on its A100. Nothing is timed here."""

REACHED = 30e12  # operations a second in the estimate of time: what a good card reaches of its float16 peak
MEMORY_NOTES = """\
GiB in float16 with all {weights} of weights on the card; what follows a + lies in the host's memory. Planned
by the program that restores, for a card with nothing else on it; measured on no card. The time is the
arithmetic at {reached:.0f} TFLOPS, without reading, writing and moving: an estimate, for cards reach more or
less. However the VAE is cut, the picture is the same. --offload parts needs less of the card, and --spill
less of the host."""


def main(argv: Sequence[str]) -> int:
    """Count, print, and return the exit status."""
    parser = command_parser("cost", "Count what the full-size model costs; no weights are needed.")
    parser.add_argument("--rank", type=_rank, default=4, metavar="N", help="of LoRA (default 4, the paper's)")
    parser.add_argument("--size", type=_side, default=512, metavar="N", help="of the result (default 512)")
    memory = "instead, the memory that results of several sizes ask of cards, and their arithmetic"
    parser.add_argument("--memory", action="store_true", help=memory)
    args = parser.parse_args(argv)
    return answer(lambda: _memory() if args.memory else _cost(args.rank, args.size), args.quiet)


def _rank(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"a rank is a whole number from 1 to 1024, got {text}")
    return value


def _side(text: str) -> int:
    value = int(text)
    if value < 8 or value % 8:
        raise argparse.ArgumentTypeError(f"it is a multiple of 8 pixels, got {text}")
    return value


def _cost(rank: int, side: int) -> int:
    from ..tools.cost import FullSize, tagger

    network = FullSize()
    trainable, papers = network.trainable(rank), network.trainable()
    blocks = [
        f"OSEDiff on Stable Diffusion 2.1-base, a result of {side}x{side} pixels\n",
        _parts([*network.parts(side), tagger()]),
        _trainable(trainable, rank),
        _paper(trainable, rank),
        _notes(papers),
    ]
    show("\n".join(blocks))
    return DONE


def _memory() -> int:
    from ..tools.demand import CARDS, SIDES, demands

    weights, found = demands(SIDES)
    rows = [
        (
            f"{demand.side} x {demand.side}",
            _gib(demand.whole),
            *(
                " + ".join(_gib(n) for n in (plan.device_bytes + weights, plan.host_bytes) if n)
                for plan in demand.cards
            ),
            f"{demand.macs / 1e12:,.1f} T",
            f"{2 * demand.macs / REACHED:,.1f} s",
        )
        for demand in found
    ]
    head = ("result", "VAE whole", *(f"{card} GiB card" for card in CARDS), "multiply-adds", "estimated")
    show(f"{_table(head, rows)}\n{MEMORY_NOTES.format(weights=_gib(weights), reached=REACHED / 1e12)}")
    return DONE


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"


def _parts(parts: Sequence[PartCost]) -> str:
    rows = [(part.name, _millions(part.parameters), f"{part.macs / 1e9:,.1f} G") for part in parts]
    total = sum(part.parameters for part in parts), sum(part.macs for part in parts)
    rows.append(("sum", _millions(total[0]), f"{total[1] / 1e9:,.1f} G"))
    return _table(("part", "parameters", "multiply-accumulates"), rows)


def _trainable(trainable: Trainable, rank: int) -> str:
    rows = [
        ("LoRA of the UNet", _millions(trainable.unet_lora)),
        ("LoRA of the VAE encoder", _millions(trainable.vae_lora)),
        ("conv_in, in full", _millions(trainable.conv_in)),
        ("in a checkpoint", _millions(trainable.generator)),
        ("LoRA of the critic", _millions(trainable.critic_lora)),
        ("sum", _millions(trainable.total)),
    ]
    return _table((f"trainable at rank {rank}", "parameters"), rows)


def _paper(trainable: Trainable, rank: int) -> str:
    from ..tools.cost import PAPER_TABLE_2

    rows = [
        (name, f"{row.steps}", f"{row.seconds:.2f}", f"{row.trainable:.1f} M")
        for name, row in PAPER_TABLE_2.items()
    ]
    rows.append((f"OSEDiff, counted here at rank {rank}", "1", "", _millions(trainable.total)))
    return _table(("Table 2 of the paper, 512x512 on an A100", "steps", "seconds", "trainable"), rows)


def _notes(trainable: Trainable) -> str:
    from ..tools.cost import PAPER_TABLE_2

    return NOTES.format(
        paper=PAPER_TABLE_2["OSEDiff"].trainable,
        lora=f"{(trainable.total - trainable.conv_in) / 1e6:.2f}",
        all=f"{trainable.total / 1e6:.2f}",
        generator=f"{trainable.generator / 1e6:.2f}",
    )


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return lines with columns of even width, the first to the left and numbers to the right."""
    lines = [head, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    text = ""
    for first, *rest in lines:
        cells = [f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)]
        text += "  ".join([f"{first:<{widths[0]}}", *cells]).rstrip() + "\n"
    return text

"""`osediff verify INPUTS PUBLISHED`: restore published inputs and compare with published outputs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..choices import COLORS
from ..errors import OSEDiffError
from .console import DONE, FAILED, answer, command_parser, note, say, show

if TYPE_CHECKING:
    from ..prompts.text import PromptSource

EPILOG = """\
The report goes to stdout, to be pasted into an issue; it names files, never folders. Its columns, PSNR in dB:
  result     ours against the published output
  no_prompt  the same with an empty prompt: how much the tags matter
  spread     ours against ours with the noise that the published code draws, so that result cannot be
             expected above it
  vae        the published output through this base's VAE: low if the base is not the right one
  colour     levels of 255 by which the published output's mean misses the aim of our colour matching

exit status: 0 all pictures were compared; 1 some were not; 130 interrupted."""


def main(argv: Sequence[str]) -> int:
    """Do what `argv` says and return the exit status."""
    parser = command_parser("verify", "Compare this program with published results.", EPILOG)
    add = parser.add_argument
    add("inputs", type=Path, metavar="INPUTS", help="the folder of published low-quality pictures")
    add("published", type=Path, metavar="PUBLISHED", help="the folder of published results, same names")
    add("--base", metavar="BASE", help="as for restoring (default, without --weights, the demo)")
    add("--weights", metavar="FILE", help="the checkpoint, such as osediff.pkl")
    add("--vocabulary", metavar="FOLDER", help="of a base in one file: where vocab.json and merges.txt are")
    add("--tagger", metavar="FILE", help="a file of osediff convert-dape, for the prompts")
    add("--prompt", default="", metavar="TEXT", help="what all pictures show (default nothing)")
    add("--scale", type=float, default=4.0, metavar="N", help="how much larger (default 4)")
    add("--color", choices=COLORS, default="adain", help="default adain, as published")
    add("--most", type=int, metavar="N", help="compare no more than N pictures")
    add("--device", default="auto", help="auto, cpu, cuda, mps, xpu (default auto)")
    add("--dtype", default="auto", choices=("auto", "float32", "float16", "bfloat16"), help="default auto")
    args = parser.parse_args(argv)
    return answer(lambda: _verify(args), args.quiet)


def _verify(args: argparse.Namespace) -> int:
    from ..model import OSEDiff
    from ..tools.verify import Comparison, compare, find_pairs, machine_lines, table

    pairs = find_pairs(args.inputs, args.published, args.most)
    model = OSEDiff.from_pretrained(
        args.base, args.weights, dtype=args.dtype, device=args.device, vocabulary=args.vocabulary
    )
    source = _prompt_source(args)
    rows: list[Comparison] = []
    for done, pair in enumerate(pairs, start=1):
        try:
            rows.append(compare(model, pair, source, args.prompt, args.scale, args.color))
            note(f"{done}/{len(pairs)} {pair.name}: {rows[-1].result:.2f} dB")
        except OSEDiffError as error:
            say(f"error: {error}")
    if rows:
        prompts = [f"prompt of {row.name}: {row.prompt!r}" for row in rows] if args.tagger else []
        show("\n".join(["```", *machine_lines(model), *_files(args), "", table(rows), *prompts, "```"]))
    return DONE if len(rows) == len(pairs) else FAILED


def _files(args: argparse.Namespace) -> list[str]:
    """Return what the model was loaded from, with hashes."""
    from ..base.load import DEMO_BASE, DEMO_WEIGHTS
    from ..tools.verify import file_lines

    demo = args.base is None and args.weights is None
    given = {
        "base": DEMO_BASE if demo else args.base and _place(args.base),
        "weights": DEMO_WEIGHTS if demo else args.weights,
        "tagger": args.tagger,
    }
    return [line for what, path in given.items() if path for line in file_lines(what, Path(path))]


def _place(base: str) -> Path:
    """Return the folder or file of a base, which may be a hub id."""
    from ..base.hub_cache import snapshot

    return Path(base) if Path(base).exists() else snapshot(base) or Path(base)


def _prompt_source(args: argparse.Namespace) -> PromptSource:
    from ..prompts.tagger import Tagger
    from ..prompts.text import plain_text

    if args.tagger is None:
        return plain_text
    return Tagger.from_pretrained(args.tagger, dtype=args.dtype, device=args.device)

"""`osediff convert-dape RAM [DAPE] OUT`: one small tagger file instead of RAM's weights and DAPE's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import OSEDiffError
from ..whole_files import sweep
from .console import DONE, answer, command_parser, note, show

EPILOG = """\
RAM's weights come without their tags. ram_tag_list.txt and ram_tag_list_threshold.txt are taken from beside
them; both are in ram/data of RAM's repository. Without DAPE the tagger is plain RAM, which the published
training used. Nothing in a .pth file is executed.

exit status: 0 done; 1 failed, and nothing is left behind; 2 the command cannot be meant; 130 interrupted."""


def main(argv: Sequence[str]) -> int:
    """Read RAM and DAPE, fold and round them, write OUT; return the exit status."""
    parser = command_parser("convert-dape", "Make one tagger file of RAM's weights and DAPE's.", EPILOG)
    add = parser.add_argument
    add("ram", metavar="RAM", type=Path, help="ram_swin_large_14m.pth")
    add("dape", metavar="DAPE", type=Path, nargs="?", help="DAPE.pth; left out: plain RAM")
    add("out", metavar="OUT", type=Path, help="the .safetensors file to write")
    add("--tags", type=Path, metavar="FILE", help="RAM's list of tags, if it is not beside RAM")
    add("--thresholds", type=Path, metavar="FILE", help="RAM's thresholds, if they are not beside RAM")
    add("--overwrite", action="store_true", help="replace OUT if it exists")
    args = parser.parse_args(argv)
    return answer(lambda: _convert(args), args.quiet)


def _convert(args: argparse.Namespace) -> int:
    _check_out(args.out, args.overwrite)
    from ..prompts.tagger_file import read_tagger, write_tagger

    weights = read_tagger(args.ram, args.dape, tags=args.tags, thresholds=args.thresholds)
    note(f"{len(weights.tags)} tags, of {weights.made_from or args.ram.name}")
    sweep(args.out.parent)
    write_tagger(args.out, weights)
    note(f"wrote {args.out}, {args.out.stat().st_size / 1e6:.1f} MB")
    show(str(args.out))
    return DONE


def _check_out(out: Path, overwrite: bool) -> None:
    """Raise OSEDiffError before anything is read where OUT could not be written."""
    if out.suffix != ".safetensors":
        raise OSEDiffError(f"the tagger file is a .safetensors file, got {out.name}: let OUT end so")
    if out.exists() and not overwrite:
        raise OSEDiffError(f"{out} exists: give --overwrite to replace it, or another name")
    if not out.parent.is_dir():
        raise OSEDiffError(f"there is no folder {out.parent}: make it first")

"""`osediff inspect PATH ...`: what files and folders are, for which base, and how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import OSEDiffError, printable, shortened
from .console import DONE, FAILED, answer, command_parser, say, show

LONGEST_FACT, LONGEST_CONFIG = 1000, 100_000  # letters, of what a file may say anything

if TYPE_CHECKING:
    from ..tools.describe import Description


def main(argv: Sequence[str]) -> int:
    """Describe what `argv` names, and return the exit status."""
    parser = command_parser(
        "inspect", "Tell what a file or folder is: a checkpoint, an export, a base, a tagger, another's."
    )
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="a file, a folder, or the hub id of a model in the cache")
    add("--base", metavar="PATH", help="hold checkpoints and decoders against this base: do they fit")
    add("--config", action="store_true", help="show all settings of the training")
    args = parser.parse_args(argv)
    return answer(lambda: _inspect(args.paths, args.base, args.config), args.quiet)


def _inspect(paths: Sequence[str], base: str | None, config: bool) -> int:
    """Describe one after the other; one that is broken does not keep the rest from being told."""
    from ..tools.describe import describe

    status = DONE
    for path in paths:
        try:
            show(told(path, describe(path, base), config))
        except OSEDiffError as error:
            say(f"error: {error}")
            status = FAILED
    return status


def told(path: str, found: Description, config: bool) -> str:
    """Return what was found as lines, harmless ones whatever the file says; config: with all settings."""
    facts = {"is": found.kind, **found.facts}
    if found.config and not config:
        facts["settings"] = f"{len(found.config.splitlines())} lines; --config shows them"
    width = max(map(len, facts))
    told = {label: printable(shortened(text, LONGEST_FACT)) for label, text in facts.items()}
    lines = [printable(path), *(f"  {label:<{width}}  {text}" for label, text in told.items())]
    settings = shortened(found.config.rstrip(), LONGEST_CONFIG)
    settings = "\n".join(printable(line) for line in settings.split("\n"))
    return "\n".join([*lines, *([settings] if config and settings else [])])

"""`python -m train CONFIG.toml [--plan] [--section.key VALUE]`: train OSEDiff, or say what would be done."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from osediff_core.commands.console import show
from osediff_core.device.huge_pages import ask_for_huge_pages
from osediff_core.errors import OSEDiffError

from .console import refuse, start_console

if TYPE_CHECKING:
    from .config import TrainConfig

USAGE = "python -m train CONFIG.toml [--plan] [--section.key VALUE ...]"

AS_IN_PYTHON = {"true": "True", "false": "False"}
"""Booleans are true and false in the configuration's TOML; tyro reads Python's."""


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and train; returns the exit status."""
    start_console(logging.INFO)
    ask_for_huge_pages(os.environ)
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except OSEDiffError as error:
        return refuse(error)
    except KeyboardInterrupt:  # before the first step; later, the loop ends by itself
        return 130


def _run(arguments: list[str]) -> int:
    try:
        import tyro
    except ImportError as error:
        raise OSEDiffError("training needs the package tyro: install the train extra") from error
    from .config import TrainConfig, read_config

    wants_help = not arguments or arguments[0] in ("-h", "--help")
    if not wants_help and arguments[0].startswith("-"):
        raise OSEDiffError(f"the configuration file comes first: {USAGE}")
    default = TrainConfig() if wants_help else read_config(TrainConfig, arguments[0])
    overrides = ["--help"] if wants_help else [AS_IN_PYTHON.get(a, a) for a in arguments[1:] if a != "--plan"]
    kind = tyro.conf.configure(tyro.conf.FlagConversionOff)(TrainConfig)
    config = tyro.cli(kind, prog="python -m train CONFIG.toml", default=default, args=overrides)
    answer = _plan(config) if "--plan" in arguments else _train(config)
    if os.environ.get("RANK", "0") == "0":  # set by torchrun and accelerate launch
        show(answer)
    return 0


def _plan(config: TrainConfig) -> str:
    from .plan import plan

    return plan(config)


def _train(config: TrainConfig) -> str:
    from .loop import train

    return f"The newest checkpoint is {train(config)}"


if __name__ == "__main__":
    sys.exit(main())

"""The command line: `osediff IN OUT` restores pictures, and `osediff COMMAND ...` does the rest.

A command is imported when it is called, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import NamedTuple

from ..device.huge_pages import ask_for_huge_pages
from .console import FAILED, fit_console, messages, say

NO_TORCH = (
    "PyTorch is not installed: pip install torch (on Linux a build for CUDA of several GB; for a processor "
    "alone or ROCm take the line that https://pytorch.org/get-started/locally shows), then try again"
)
LIBRARIES = ("numpy", "PIL", "safetensors", "tqdm", "transformers", "huggingface_hub")
NO_LIBRARY = "{} is not installed: pip install transformers safetensors numpy pillow tqdm (in a clone, -e .)"


class Command(NamedTuple):
    """A module of osediff_core.commands with `main(argv) -> int`, and what help says of it."""

    module: str
    what: str


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "app": Command("app", "a page in the browser, for this machine"),
        "convert": Command("convert", "write a checkpoint in another layout, or merged into its base"),
        "convert-dape": Command("convert_dape", "make one small tagger file of RAM's weights and DAPE's"),
        "cost": Command("cost", "count parameters and arithmetic of the full-size model"),
        "fetch": Command("fetch", "get the published weights"),
        "inspect": Command("inspect", "tell what a file or folder is, and how it was made"),
        "verify": Command("verify", "compare this program with published results"),
    }
)
"""By the name that a user types. A picture of such a name is reached as ./NAME."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what `argv` (default: the program's arguments) says, and return the exit status.

    Raises SystemExit for what argparse answers itself: help, version, unknown options.
    """
    argv = sys.argv[1:] if argv is None else argv
    ask_for_huge_pages(os.environ)
    fit_console()
    try:
        if argv and argv[0] in COMMANDS:
            return import_module(f"{__package__}.{COMMANDS[argv[0]].module}").main(argv[1:])
        from . import restore

        return restore.main(argv, {name: command.what for name, command in COMMANDS.items()})
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name != "torch" and name not in LIBRARIES:
            raise
        with messages(quiet=False):
            say(f"error: {NO_TORCH if name == 'torch' else NO_LIBRARY.format(name)}")
        return FAILED

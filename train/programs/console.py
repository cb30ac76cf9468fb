"""How the programs of this package speak: lines that do nothing to a terminal, on any console."""

from __future__ import annotations

import logging
import sys

from osediff_core.commands.console import fit_console
from osediff_core.errors import OSEDiffError, printable

REFUSED = 2
"""The exit status after a mistake that a person can mend."""


class OneLine(logging.Formatter):
    """Formats a message so that nothing in it, a file's name say, begins a line or a terminal's command."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the message as one line; a traceback follows below it, as ever."""
        return printable(super().formatMessage(record))


def start_console(level: int = logging.WARNING, form: str = "%(message)s") -> None:
    """Fit stdout and stderr to what is printed, and show messages from `level` on, formatted by `form`."""
    fit_console()
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine(form, datefmt="%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler])


def refuse(error: OSEDiffError) -> int:
    """Say in one line what a person can mend; return the exit status."""
    sys.stderr.write(f"error: {printable(error)}\n")
    return REFUSED

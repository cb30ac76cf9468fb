"""What the commands share: how they speak, and how a mistake becomes a sentence and an exit status.

What is said goes to stderr, through logging, so that it fits between progress bars; what a user asked to see,
and may pipe, goes to stdout. Both are harmless to a terminal whatever files are called and hold
(`printable`), and fit any console: letters that it lacks are escaped.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import NoReturn

from ..errors import OSEDiffError, printable
from ..whole_files import reason

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class CommandError(OSEDiffError):
    """A command that cannot be meant, found out before anything was begun: status 2."""


class Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in one harmless line: `osediff *` gives it the names of files."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments, and what was meant, and exit with status 2."""
        known = [name for action in self._actions for name in action.option_strings]
        words = message.split() if message.startswith("unrecognized") else []
        wrong = [word.partition("=")[0] for word in words if word.startswith("--")]
        meant = [name for word in wrong if (name := closest(word, known))]
        super().error(printable(f"{message}; did you mean {' and '.join(meant)}?" if meant else message))


def closest(word: str, known: Collection[str]) -> str | None:
    """Return the one of the known words that a misspelt one is most like, or None."""
    return next(iter(get_close_matches(word, known, 1, 0.7)), None)


def fit_console() -> None:
    """Let stdout and stderr escape letters that their encoding lacks, as stderr does by itself.

    On Windows, a file or pipe that output goes to has a code page of 256 letters.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is not one, and takes any letter
            stream.reconfigure(errors="backslashreplace")


def command_parser(name: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of `osediff NAME`, with --quiet."""
    parser = Parser(
        prog=f"osediff {name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # so that later options cannot change what a script means
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    return parser


def answer(work: Callable[[], int], quiet: bool = False) -> int:
    """Do the work of a command and return its status; what a person can mend becomes one sentence."""
    with messages(quiet):
        try:
            return work()
        except OSEDiffError as error:
            say(f"error: {error}")
            return USAGE if isinstance(error, CommandError) else FAILED
        except (MemoryError, RuntimeError) as error:
            from ..device.memory import is_out_of_memory  # with torch, which --help does without

            if not is_out_of_memory(error):
                raise
            say("error: there is not enough memory for this")
        except KeyboardInterrupt:
            say("interrupted")
            return INTERRUPTED
        except BrokenPipeError:  # who reads our output, as `head` does, has seen enough
            _write_no_more()
            return DONE
    return FAILED


@contextmanager
def messages(quiet: bool) -> Iterator[None]:
    """Show the core's own notes, and keep the libraries' chatter off the screen."""
    logger, handler = logging.getLogger("osediff_core"), _Stderr()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if quiet else logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def told_as(names: Mapping[str, str]) -> Iterator[None]:
    """Tell files by other names than they have, for those that stand in for something else."""

    def rename(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        for name, other in names.items():
            text = text.replace(name, other)
        record.msg, record.args = text, ()
        return True

    handlers = logging.getLogger("osediff_core").handlers
    for handler in handlers:
        handler.addFilter(rename)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(rename)


class _Stderr(logging.Handler):
    """What the core says while it works, between the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is None:  # closed by who started us, or a program of Windows without a console
            return
        line = f"osediff: {printable(record.getMessage())}"
        bars = sys.modules.get("tqdm")  # where nobody has imported it, there are none
        if bars is None:
            sys.stderr.write(f"{line}\n")
        else:
            bars.tqdm.write(line, file=sys.stderr)


def show(text: str) -> None:
    """Write what the user asked to see to stdout, as a line or more; OSEDiffError where its disk is full.

    A name or text of a file goes through `printable` before it becomes a part of several lines.
    """
    lines = "".join(f"{printable(line)}\n" for line in text.split("\n"))
    _write(lambda: sys.stdout.write(lines))


def show_bytes(content: bytes) -> None:
    """Write a file that the user asked for to stdout; OSEDiffError where its disk is full."""
    _write(lambda: sys.stdout.buffer.write(content))


def _write(write: Callable[[], object]) -> None:
    if sys.stdout is None:
        raise OSEDiffError("stdout is closed: name a file, or start this with an open one")
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _write_no_more()
        raise OSEDiffError(f"stdout could not be written: {reason(error)}") from error


def _write_no_more() -> None:
    """Let what is left for stdout, which Python writes at its end, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(text: str) -> None:
    """Tell how the work goes; --quiet leaves it out."""
    logging.getLogger(__name__).info(text)


def say(text: str) -> None:
    """Tell what must be heard, --quiet or not."""
    logging.getLogger(__name__).error(text)

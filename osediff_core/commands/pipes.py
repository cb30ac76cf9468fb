"""`osediff - OUT` and `osediff IN -`: a picture from stdin, a result to stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import OSEDiffError
from .console import show_bytes, told_as

PIPE = "-"


@contextmanager
def piped(sources: Sequence[str], target: str, suffix: str) -> Iterator[tuple[list[str], str]]:
    """Yield sources and target with files in the place of pipes; what is written there goes to stdout then.

    suffix (".png"): the format of stdout. Raises OSEDiffError where stdin is no pipe.
    """
    if PIPE not in (*sources, target):
        yield list(sources), target
        return
    with TemporaryDirectory(prefix="osediff-") as folder:
        given, result = Path(folder) / "stdin", Path(folder) / f"stdout{suffix}"
        if PIPE in sources:
            if sys.stdin is None or sys.stdin.isatty():  # None: closed by who started us
                kind = "closed" if sys.stdin is None else "a terminal"
                raise OSEDiffError(f"- is stdin, which is {kind} here: pipe a picture in, or name a file")
            given.write_bytes(sys.stdin.buffer.read())
        with told_as({str(given): "stdin", str(result): "stdout"}):
            yield [str(given) if s == PIPE else s for s in sources], str(result) if target == PIPE else target
        if result.exists():
            show_bytes(result.read_bytes())

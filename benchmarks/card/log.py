"""What was measured and what was not, row by row; none keeps the others from being run."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from benchmarks.card.machine import Machine
from osediff_core.errors import first_line

Cells = Mapping[str, str | float | None]
STATE = "state"
LATE = "not run: no time was left"
NO_CARD = "not on a processor"


class TimeIsUp(BaseException):
    """Not an Exception: what goes on after any error, as a compiler's fallback does, must end at this."""


class Log:
    """The tables, and the time that there is: of a part until `until`."""

    def __init__(self, machine: Machine, said: Callable[[str], object]) -> None:
        """Note rows of one machine; `said` is told of each that is done."""
        self.machine, self.tables, self._said = (
            machine,
            dict[str, list[dict[str, str | float | None]]](),
            said,
        )
        self.until = time.monotonic()

    def row(
        self, table: str, label: Cells, work: Callable[[], Cells], *, card_only: bool = False
    ) -> dict[str, str | float | None]:
        """Note and return a row of a table: its label with what `work` measures, or why there is nothing."""
        left = self.until - time.monotonic()
        row: dict[str, str | float | None] = dict(label)
        if card_only and not self.machine.is_card:
            row[STATE] = NO_CARD
        elif left <= 0:
            row[STATE] = LATE
        else:
            try:
                with _alarm(left):
                    found = work()
                row |= {name: _finite(value) for name, value in found.items()}
            except TimeIsUp:
                row[STATE] = f"not run to its end: more than the {left:.0f} s that were left"
            except Exception as error:
                row[STATE] = _failed(error)
        self.machine.release()  # out of the handler: an error holds the memory of what failed
        self.tables.setdefault(table, []).append(row)
        self._said(f"{table}: {', '.join(map(str, label.values()))}: {row.get(STATE, 'done')}")
        return row

    def part(self, name: str, until: float, measure: Callable[[], None]) -> None:
        """Note the rows of a part, which has until then; what fails between them is a row of its own."""
        self.until = until
        try:
            measure()
        except Exception as error:
            self.tables.setdefault(name, []).append({STATE: _failed(error)})
            self._said(f"{name}: {_failed(error)}")


def _finite(value: str | float | None) -> str | float | None:
    """Return a number that JSON knows, or its name."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _failed(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {first_line(error)}"


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise TimeIsUp inside after so many seconds, where the system can: elsewhere a row takes its time."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

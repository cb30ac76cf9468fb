"""Ctrl-C and SIGTERM as a wish to stop after the step that is running."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class StopRequest:
    """While entered, SIGINT and SIGTERM set `name`; the same signal once more acts as it always does."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        signal.signal(number, self._before[number])  # pyright: ignore[reportArgumentType]


def leave_signals_to_parent(worker: int) -> None:
    """Make a data worker outlive Ctrl-C, which reaches the whole process group: the step needs its batch."""
    for number in StopRequest.SIGNALS:
        signal.signal(number, signal.SIG_IGN)

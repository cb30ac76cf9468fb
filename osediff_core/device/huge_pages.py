"""Huge pages for a program's own process; who imports the package keeps the process as it is."""

from __future__ import annotations

from collections.abc import MutableMapping

SWITCH = "THP_MEM_ALLOC_ENABLE"
"""PyTorch's own: its CPU allocator marks what is 2 MB or more for transparent huge pages (Linux)."""


def ask_for_huge_pages(environment: MutableMapping[str, str]) -> None:
    """Switch them on before PyTorch allocates anything, unless the user has decided otherwise.

    A convolution's result of tens of megabytes comes from the system anew each time, and the page faults for
    every 4 KB of it took up to a third of the demo's time on a processor (docs/benchmarks.md).
    """
    environment.setdefault(SWITCH, "1")

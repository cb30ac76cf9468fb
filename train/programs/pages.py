"""Pages of documentation of which a command writes a part, and people the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from osediff_core.errors import OSEDiffError
from osediff_core.whole_files import write_whole


def write_parts(page: Path, texts: Mapping[str, str]) -> None:
    """Put texts in the places of the parts that they are named for, each between its two comments.

    A new page gets them alone. Raises OSEDiffError where the page is there and lacks a part: nothing of it is
    overwritten.
    """
    if page.exists():
        whole = page.read_text(encoding="utf-8")
    else:
        whole = "\n".join(f"{begin}{end}\n" for begin, end in map(_marks, texts))
    for name, text in texts.items():
        begin, end = _marks(name)
        before, found, rest = whole.partition(begin)
        _, ended, after = rest.partition(end)
        if not (found and ended):
            raise OSEDiffError(f"expected {begin} and {end} in {page}, found no such part: put them there")
        whole = f"{before}{begin}\n{text}\n{end}{after}"
    write_whole(page, whole.encode())


def _marks(name: str) -> tuple[str, str]:
    """Give the comments that a part begins and ends with."""
    return f"<!-- {name}: written by a program -->", f"<!-- {name}: end -->"

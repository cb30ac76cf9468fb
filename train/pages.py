"""Pages of documentation of which a command writes a part, and people the rest."""

from __future__ import annotations

from pathlib import Path

from osediff_core.errors import OSEDiffError
from osediff_core.whole_files import write_whole


def write_part(page: Path, name: str, text: str) -> None:
    """Put text in the place of the part called `name`, between its two comments; a new page gets it alone.

    Raises OSEDiffError where the page is there and has no such part: nothing of it is overwritten.
    """
    begin, end = f"<!-- {name}: written by a program -->", f"<!-- {name}: end -->"
    part = f"{begin}\n{text}\n{end}"
    if not page.exists():
        write_whole(page, f"{part}\n".encode())
        return
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise OSEDiffError(f"expected {begin} and {end} in {page}, found no such part: put them there")
    write_whole(page, f"{before}{part}{after}".encode())

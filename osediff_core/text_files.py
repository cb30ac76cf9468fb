"""Text files as editors of all systems leave them."""

from __future__ import annotations

import codecs
from pathlib import Path

OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def read_text(path: Path) -> str:
    """Read UTF-8 with or without a byte order mark, and any ends of lines as "\\n".

    Raises OSError, and ValueError that says what other text it is.
    """
    content = path.read_bytes()
    for mark, name in OTHER_MARKS:
        if content.startswith(mark):
            raise ValueError(f"it is {name} text: save it as UTF-8")
    return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")

"""The one kind of error that this package raises for people, and how text of files is shown to them."""

import unicodedata

# What moves a cursor, starts a terminal's command, ends a line or turns the reading direction; and the halves
# of letters that stand for bytes of a name that are not UTF-8.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")

LONGEST_SENTENCE = 2000  # letters of an error


class OSEDiffError(ValueError):
    """Something a person can mend; its text says what was expected, what was found, and what to do.

    It is one harmless line of bounded length wherever it is shown, whatever a file has put into it.
    """

    def __init__(self, text: str) -> None:
        super().__init__(printable(shortened(text, LONGEST_SENTENCE)))


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def printable(text: object) -> str:
    """Return `text` as one line that does nothing to a terminal: what cannot be seen is escaped as in Python.

    For names, metadata and messages, whoever wrote them; a line that went through once is not changed again.
    """
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in UNSEEN else letter
        for letter in str(text)
    )


def shortened(text: str, most: int) -> str:
    """Return `text`, or its beginning and end where it has more than `most` letters."""
    if len(text) <= most:
        return text
    return f"{text[: most * 3 // 4]} [{len(text) - most:,} letters] {text[-(most // 4) :]}"

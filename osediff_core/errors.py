"""The one kind of error that this package raises for people."""


class OSEDiffError(ValueError):
    """Something a person can mend; its text says what was expected, what was found, and what to do."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

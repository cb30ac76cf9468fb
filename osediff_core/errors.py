"""The one kind of error that this package raises for people."""


class OSEDiffError(ValueError):
    """Something a person can mend; its text says what was expected, what was found, and what to do."""

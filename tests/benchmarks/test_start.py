"""What a program takes is of a program that did its work."""

import pytest

from benchmarks import start


def test_a_program_that_fails_is_not_measured():
    with pytest.raises(SystemExit, match="nothing to see"):
        start.program_seconds(("-c", "raise SystemExit('nothing to see')"), 1)


@pytest.mark.slow
def test_all_are_measured():
    found = start.measure(16, 16, 1)
    assert all(seconds > 0 for seconds in found.values())

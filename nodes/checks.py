"""Checks that ComfyUI makes before a graph runs.

ComfyUI 0.3.64 does not hold V3 combos to their options, and naming an input in `validate_inputs` switches off
the check that later versions make; so the nodes check their combos themselves.
"""

from __future__ import annotations

from collections.abc import Iterable


def one_of(what: str, value: str | None, allowed: Iterable[str]) -> str:
    """What is wrong with a choice, "" where nothing is; None stands for an input that is wired."""
    allowed = list(allowed)
    if value is None or value in allowed:
        return ""
    return f"the {what} is one of {', '.join(allowed)}, got {value!r}"

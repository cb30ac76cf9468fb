"""Which pictures a run is trained on, wherever they lie: their names within the sources, and their sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

Entry = tuple[str, int]
"""A picture's name within its source, and its bytes; -1 where they cannot be seen without reading it."""


def changes(then: Sequence[Entry], now: Sequence[Entry]) -> str:
    """Say in what two listings differ: how many pictures, how, and one of them; "" if they are equal."""
    if list(then) == list(now):
        return ""
    gone, come = Counter(then) - Counter(now), Counter(now) - Counter(then)
    gone_names, come_names = (Counter(name for name, _ in side.elements()) for side in (gone, come))
    kinds = {
        "added": come_names - gone_names,
        "removed": gone_names - come_names,
        "of another size": gone_names & come_names,
    }
    said = [f"{names.total()} {kind}" for kind, names in kinds.items() if names]
    if not said:
        return "the same ones in another order"
    example = next(min(names) for names in kinds.values() if names)
    return f"{', '.join(said)}, for example {example}"

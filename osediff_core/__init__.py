"""OSEDiff: one-step diffusion super-resolution. Images in, images out; nothing here knows ComfyUI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import OSEDiffError

if TYPE_CHECKING:
    from .model import OSEDiff
    from .pipeline.run import restore
    from .prompts.tagger import Tagger

__all__ = ["OSEDiff", "OSEDiffError", "Tagger", "restore"]

_HOMES = {"OSEDiff": ".model", "Tagger": ".prompts.tagger", "restore": ".pipeline.run"}


def __getattr__(name: str) -> object:
    """Import torch at the first use of a name that needs it, so that `osediff --help` does not wait."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name], __name__), name)

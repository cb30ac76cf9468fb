"""OSEDiff: one-step diffusion super-resolution. Images in, images out; nothing here knows ComfyUI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import OSEDiffError

if TYPE_CHECKING:
    from .model import OSEDiff
    from .pictures.images import read_image, write_image
    from .pipeline.run import restore
    from .prompts.tagger import Tagger

__version__ = "0.1.0"  # pyproject.toml's; a copy in ComfyUI is not installed, and so knows no other
__all__ = ["OSEDiff", "OSEDiffError", "Tagger", "__version__", "read_image", "restore", "write_image"]

_HOMES = {
    "OSEDiff": ".model",
    "Tagger": ".prompts.tagger",
    "read_image": ".pictures.images",
    "restore": ".pipeline.run",
    "write_image": ".pictures.images",
}


def __getattr__(name: str) -> object:
    """Import torch at the first use of a name that needs it, so that `osediff --help` does not wait."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name], __name__), name)

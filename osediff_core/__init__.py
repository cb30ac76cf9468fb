"""OSEDiff: one-step diffusion super-resolution. Images in, images out; nothing here knows ComfyUI."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from .errors import OSEDiffError

if TYPE_CHECKING:
    from .model import OSEDiff
    from .prompts.tagger import Tagger
    from .restore import restore

__all__ = ["OSEDiff", "OSEDiffError", "Tagger", "restore"]


class _Package(ModuleType):
    """Imports torch at the first use of a name that needs it, so that `osediff --help` does not wait.

    Properties, and not a module's `__getattr__`: importing the submodule `restore` would otherwise put the
    module in the place of the function.
    """

    @property
    def OSEDiff(self) -> type[OSEDiff]:  # noqa: N802
        from .model import OSEDiff

        return OSEDiff

    @property
    def Tagger(self) -> type[Tagger]:  # noqa: N802
        from .prompts.tagger import Tagger

        return Tagger

    @property
    def restore(self) -> object:
        from .restore import restore

        return restore

    @restore.setter
    def restore(self, submodule: ModuleType) -> None:
        """Ignore the import system, which hands over every submodule."""


sys.modules[__name__].__class__ = _Package

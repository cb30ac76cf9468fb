"""OSEDiff: one-step diffusion super-resolution. Images in, images out; nothing here knows ComfyUI."""

from .errors import OSEDiffError
from .model import OSEDiff
from .restore import restore

__all__ = ["OSEDiff", "OSEDiffError", "restore"]

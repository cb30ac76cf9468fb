"""ComfyUI's entry point of the OSEDiff pack.

Outside ComfyUI (pytest, a Python shell) importing this file does nothing, so that the repository can be
imported anywhere; the standalone library is `osediff_core`.
"""

from importlib.util import find_spec

WEB_DIRECTORY = "./web"

if find_spec("comfy_api") is not None:
    from .nodes import comfy_entrypoint

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

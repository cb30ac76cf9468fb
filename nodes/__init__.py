"""The ComfyUI nodes: schemas and borders. What a node computes is in `osediff_core`.

Nothing here imports transformers: it is imported when a model is loaded, so that the pack
starts in milliseconds and a missing library is one sentence on one node.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply import OSEDiffApply
from .dape import OSEDiffDAPELoader, OSEDiffDAPEPrompt
from .decode import OSEDiffDecode
from .denoise import OSEDiffDenoise
from .encode import OSEDiffLQEncode, OSEDiffTextEncode
from .exact import OSEDiffVAEDecodeExact, OSEDiffVAEEncodeExact
from .loader import OSEDiffLoader
from .paths import register_model_folder
from .upscale import OSEDiffUpscale


class OSEDiffExtension(ComfyExtension):
    """The pack as ComfyUI sees it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes, in the order of the graph."""
        return [
            OSEDiffLoader,
            OSEDiffDAPELoader,
            OSEDiffDAPEPrompt,
            OSEDiffTextEncode,
            OSEDiffLQEncode,
            OSEDiffDenoise,
            OSEDiffDecode,
            OSEDiffUpscale,
            OSEDiffApply,
            OSEDiffVAEEncodeExact,
            OSEDiffVAEDecodeExact,
        ]


async def comfy_entrypoint() -> ComfyExtension:
    """Return the extension: ComfyUI calls this once when it starts."""
    register_model_folder()
    return OSEDiffExtension()

"""What later versions of ComfyUI know of a node, and 0.3.64 would refuse."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def where_known(kind: Callable[..., Any], **options: object) -> dict[str, Any]:
    """Those of the options that this ComfyUI's `kind` takes."""
    taken = inspect.signature(kind).parameters
    return {name: value for name, value in options.items() if name in taken}

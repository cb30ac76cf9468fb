"""ComfyUI in this process, without its server, and the pack in it. The other scripts here import it first.

Arguments of the process: ComfyUI's folder, this repository, and those of the script, which are `ARGUMENTS`.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from pathlib import Path
from types import ModuleType

COMFY, ROOT = Path(sys.argv[1]), Path(sys.argv[2])
ARGUMENTS = sys.argv[3:]
sys.argv = ["main.py", "--cpu", "--use-pytorch-cross-attention"]
sys.path[0] = str(COMFY)  # ComfyUI first: its nodes.py has the name of one of our folders

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402
import utils.install_util  # noqa: E402, F401  # before ComfyUI's folders with a utils.py of their own are in reach


def load_pack() -> ModuleType:
    """The repository, as ComfyUI imports a folder of custom_nodes: under a name of its own."""
    spec = importlib.util.spec_from_file_location(
        "osediff_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = sys.modules["osediff_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Warnings(logging.Handler):
    """What ComfyUI warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, as a part of what there is."""
    return ((ours - theirs).abs().max() / ours.abs().max()).item()


def answer(results: dict[str, object]) -> None:
    """Print a line of JSON, the last of this process."""
    sys.stdout.write("\n" + json.dumps(results) + "\n")

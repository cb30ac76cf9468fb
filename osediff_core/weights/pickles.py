"""Read what torch.save wrote, without executing anything in it."""

from __future__ import annotations

import re
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from ..errors import OSEDiffError


def load_pickle(path: str | Path, *, mapped: bool = False) -> object:
    """Return the tensors and plain values of a torch file, on the CPU; what would run code is refused.

    mapped: leave tensors on the disk until they are used, where the file's layout (torch 1.6 and later)
    allows that, so that what nobody asks for costs no memory; the file must stay as it is meanwhile. Raises
    OSEDiffError for a missing, empty, truncated or unsafe file.
    """
    from pickle import UnpicklingError

    path = Path(path)
    check_file(path)
    mapped = mapped and zipfile.is_zipfile(path)
    try:
        with _harmless_classes():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UnpicklingError as error:
        if re.search("unsupported (global|class)", str(error), re.IGNORECASE):
            raise OSEDiffError(
                f"{path} carries code besides tensors, which was not executed: get the file from a source "
                "that you trust"
            ) from error
        raise OSEDiffError(
            f"{path} is damaged or no checkpoint (code in it, if any, was not executed): get the file again"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise OSEDiffError(f"{path} is damaged or no checkpoint: get the file again") from error


def _harmless_classes() -> AbstractContextManager[object]:
    """Allow the one class that old training checkpoints name, with an empty one of ours in its place."""
    allow = getattr(torch.serialization, "safe_globals", None)  # torch 2.5 and later
    if allow is None:
        return nullcontext()
    place = {"__module__": "pytorch_lightning.callbacks.model_checkpoint", "__qualname__": "ModelCheckpoint"}
    return allow([type("ModelCheckpoint", (), place)])


def check_file(path: Path) -> None:
    """Raise OSEDiffError unless there is a file with something in it."""
    if not path.is_file():
        raise OSEDiffError(f"there is no file {path}: check the path, or download the file first")
    if path.stat().st_size == 0:
        raise OSEDiffError(f"{path} is empty (0 bytes), so its download or copy failed: get the file again")

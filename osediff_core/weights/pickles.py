"""Read what torch.save wrote, without executing anything in it."""

from __future__ import annotations

import re
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from ..errors import OSEDiffError

NAMED_BESIDES = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    # losses and learning rates, in the names of numpy 1 and 2
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
)
"""What training leaves in a checkpoint that is not wanted, but no reason to refuse the file."""


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
    """Allow what old training checkpoints name besides tensors, with empty classes of ours in its place."""
    allow = getattr(torch.serialization, "safe_globals", None)  # torch 2.5 and later
    if allow is None:
        return nullcontext()
    names = [name.rsplit(".", 1) for name in NAMED_BESIDES]
    return allow([type(name, (_Nothing,), {"__module__": module}) for module, name in names])


class _Nothing:
    """Takes whatever a pickle gives it, and keeps none of it."""

    def __init__(self, *values: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def check_file(path: Path) -> None:
    """Raise OSEDiffError unless there is a file with something in it."""
    if not path.is_file():
        raise OSEDiffError(f"there is no file {path}: check the path, or download the file first")
    if path.stat().st_size == 0:
        raise OSEDiffError(f"{path} is empty (0 bytes), so its download or copy failed: get the file again")

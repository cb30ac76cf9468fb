"""The full state of a run in a file that is whole or not there: written, found, checked, and read again.

A state continues one run, with the same settings and base; `model.init_from` is for everything else.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from osediff_core.errors import OSEDiffError
from osediff_core.weights.pickles import check_torch
from osediff_core.whole_files import sweep, write_beside

log = logging.getLogger(__name__)

VERSION = 1


class DamagedStateError(OSEDiffError):
    """A state of which not all is there any more, or not as it was written."""


def state_path(folder: Path, step: int) -> Path:
    """Name the state of a step."""
    return folder / f"state_{step:07d}.pt"


def newest_state(folder: Path) -> Path | None:
    """Find the state of the highest step."""
    found = numbered(folder, "state_*.pt")
    return found[max(found)] if found else None


def numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """Find the files whose names end in a step's number, by that number."""
    found = {path: re.search(r"_(\d{7,})$", path.stem) for path in folder.glob(pattern)}
    return {int(match[1]): path for path, match in found.items() if match}


def prune(folder: Path, pattern: str, keep: int, step: int) -> None:
    """Remove all files numbered up to `step` but the newest `keep`; 0 keeps all. Later ones are not ours."""
    found = numbered(folder, pattern)
    steps = sorted(number for number in found if number <= step)
    for number in steps[:-keep] if keep else []:
        found[number].unlink(missing_ok=True)


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write beside and rename, so that whoever finds the name finds all of it, even after a power cut."""
    sweep(path.parent)
    whole = {"version": VERSION, **state}
    write_beside(path, lambda beside: torch.save({**whole, "checksum": checksum(whole)}, beside))


def read_newest_state(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Read the state of the highest step that is whole; damaged ones are passed over with a warning.

    Raises OSEDiffError where all are damaged, and where one cannot be read at all or is of another version.
    """
    found, damage = numbered(folder, "state_*.pt"), None
    for step in sorted(found, reverse=True):
        try:
            state = read_state(found[step])
        except DamagedStateError as error:
            damage = damage or error
            log.warning("%s; looking at the one before", error)
            continue
        return found[step], state
    if damage is not None:
        raise OSEDiffError(
            f"{damage}, and {folder} has no whole one: remove the damaged to begin at the beginning"
        )
    return None


def read_state(path: Path) -> dict[str, Any]:
    """Read a state; nothing in it is executed. Its checksum is compared, where it has one.

    Raises DamagedStateError, and OSEDiffError for what cannot be read or is no state of this version.
    """
    check_torch(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise OSEDiffError(f"the state {path} cannot be read: {error.strerror or error}") from error
    try:
        with file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a cut file can be anything to torch, an OSError too
        raise DamagedStateError(f"the state {path} is damaged ({type(error).__name__})") from error
    version = state.get("version") if isinstance(state, dict) else None
    if version != VERSION:
        raise OSEDiffError(f"{path} is a state of version {version}, and this program reads {VERSION}")
    written = state.pop("checksum", None)
    if written is not None and written != checksum(state):
        raise DamagedStateError(f"the state {path} is damaged (its contents do not add up to its checksum)")
    return state


def checksum(value: object) -> str:
    """Hash tensors and plain values in any nesting of dictionaries and lists, wherever the tensors lie."""
    digest = hashlib.sha256()
    for part in _parts(value):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: object) -> Iterator[bytes]:
    """Give what a value consists of, in order, each with its kind."""
    if isinstance(value, Mapping | list | tuple):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        yield f"{len(value)} of {'table' if isinstance(value, Mapping) else 'list'}".encode()
        for key, inner in pairs:
            yield f"{key!r}:".encode()
            yield from _parts(inner)
    elif isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        yield f"{plain.dtype} {tuple(plain.shape)} ".encode()
        yield plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    else:
        yield f"{value!r};".encode(errors="backslashreplace")


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of all global generators of this process, in plain types."""
    name, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), *rest],  # pyright: ignore[reportAttributeAccessIssue]
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state().cpu()
    return state


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Set the global generators of this process to what `random_state` returned."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type != "cpu" and "device" in state:
        torch.get_device_module(device).set_rng_state(state["device"])

"""The full state of a run in a file that is whole or not there: written, found, checked, and read again.

A state continues one run, with the same settings and base; `model.init_from` is for everything else.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from osediff_core.errors import OSEDiffError
from osediff_core.whole_files import sweep, write_beside

from .config import TrainConfig, parse_toml

log = logging.getLogger(__name__)

VERSION = 1
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "numpy", "pillow")
FREE = {
    "model.base", "model.vocabulary", "model.init_from", "model.licence", "data.cache_mb",
    "optim.max_skipped", "optim.skip_above", "run.out", "run.overwrite", "run.resume", "run.steps",
    "run.batch_size", "run.accumulation", "run.workers", "run.device", "run.recompute", "run.log_every",
    "run.sample_every", "run.signals_every", "run.checkpoint_every", "run.keep_last", "run.tracker",
}  # fmt: skip
"""Settings that may differ between a state and the run that takes it up. The base itself is compared, not its
path, and of batch sizes their product over processes and rounds."""


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
    write_beside(path, lambda beside: torch.save({"version": VERSION, **state}, beside))


def read_state(path: Path) -> dict[str, Any]:
    """Read a state; nothing in it is executed. Raises OSEDiffError for what is no state of this version."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise OSEDiffError(
            f"the state {path} is damaged ({type(error).__name__}): remove it to go on from the one before"
        ) from error
    version = state.get("version") if isinstance(state, dict) else None
    if version != VERSION:
        raise OSEDiffError(f"{path} is a state of version {version}, and this program reads {VERSION}")
    return state


def check_same_run(
    state: Mapping[str, Any], config: TrainConfig, base: str, global_batch: int, path: Path
) -> None:
    """Raise OSEDiffError, naming what differs, unless the state belongs to this configuration and base."""
    then, now = dict(_settings(parse_toml(state["config"]))), dict(_settings(dataclasses.asdict(config)))
    plain = dict(_settings(dataclasses.asdict(TrainConfig())))  # for settings that came after the state
    differences = [
        f"{key} ({then.get(key, plain.get(key))!r} then, {now.get(key)!r} now)"
        for key in sorted((then.keys() | now.keys()) - FREE)
        if then.get(key, plain.get(key)) != now.get(key)
    ]
    if state["global_batch"] != global_batch:
        differences.append(f"pictures per step ({state['global_batch']} then, {global_batch} now)")
    if state["base"] != base:
        differences.append(f"the base (other weights than in {then.get('model.base') or 'the bundled demo'})")
    if differences:
        raise OSEDiffError(
            f"{path} belongs to another run, different in {'; '.join(differences)}: restore the settings, "
            "or begin a run of its own with run.out and model.init_from"
        )
    changed = [
        name for name, version in library_versions().items() if state["libraries"].get(name) != version
    ]
    if changed:
        log.warning("Resuming with other versions of %s: the last bits may differ.", ", ".join(changed))


def library_versions() -> dict[str, str]:
    """Return the versions of what the numbers depend on."""
    return {name: metadata.version(name) for name in LIBRARIES}


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


def _settings(table: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten a nested table to section.key, lists as tuples."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{where}{key}.")
        else:
            yield where + key, tuple(value) if isinstance(value, list) else value

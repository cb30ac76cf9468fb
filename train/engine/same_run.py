"""Whether a state is of this run: its settings, base and pictures, and which of them may differ."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from osediff_core.errors import OSEDiffError

from ..config import TrainConfig
from ..data.listing import Entry, changes
from ..programs.tables import parse_toml

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "numpy", "pillow")
PLACES = {"data.sources", "data.lq_sources", "data.validation", "data.validation_lq"}
"""Where the pictures lie. The pictures are compared, not the places."""
FREE = {
    "model.base", "model.vocabulary", "model.init_from", "model.critic_from", "model.beneath",
    "model.licence", "data.cache_mb", "optim.max_skipped", "optim.skip_above", "run.out", "run.overwrite",
    "run.resume", "run.steps", "run.batch_size", "run.accumulation", "run.workers", "run.device",
    "run.recompute", "run.log_every", "run.sample_every", "run.signals_every", "run.checkpoint_every",
    "run.keep_last", "run.keep_critic", "run.metrics", "run.tracker",
}  # fmt: skip
"""Settings that may differ between a state and the run that takes it up. The base itself is compared, not its
path, what lies beneath likewise, and of batch sizes their product over processes and rounds."""
CHANGEABLE = {
    "optim.learning_rate", "optim.output_lr_scale", "optim.warmup_steps", "optim.decay_steps",
    "optim.weight_decay", "optim.max_grad_norm",
}  # fmt: skip
"""Settings that may differ too where `run.resume` is "changed": the optimizers go on with the new ones."""
PACE = {
    "optim.max_skipped", "optim.skip_above", "run.steps", "run.batch_size", "run.accumulation",
    "run.checkpoint_every",
}  # fmt: skip
"""Those of FREE in which the processes of one run may not differ: they would wait for each other in vain."""

Pictures = Mapping[str, Sequence[Entry]]
"""Listings of the pictures of a run, by what they are for."""


def write_pictures(pictures: Pictures) -> str:
    """Put listings into a text, as a state carries them; `read_pictures` is the way back."""
    return json.dumps(pictures)


def read_pictures(text: str) -> dict[str, list[Entry]]:
    """Read what `write_pictures` returned."""
    return {name: [(entry, size) for entry, size in entries] for name, entries in json.loads(text).items()}


def check_same_run(
    state: Mapping[str, Any],
    config: TrainConfig,
    base: str,
    beneath: str,
    pictures: Pictures,
    global_batch: int,
    path: Path,
) -> None:
    """Raise OSEDiffError, naming what differs, unless the state is of this configuration, base and data."""
    then, now = dict(_settings(parse_toml(state["config"]))), dict(_settings(dataclasses.asdict(config)))
    plain = dict(_settings(dataclasses.asdict(TrainConfig())))  # for settings that came after the state
    free = FREE | PLACES if "pictures" in state else FREE  # states from before listed no pictures
    other = {
        key: f"{key} ({then.get(key, plain.get(key))!r} then, {now.get(key)!r} now)"
        for key in sorted((then.keys() | now.keys()) - free)
        if then.get(key, plain.get(key)) != now.get(key)
    }
    changed = {key: said for key, said in other.items() if key in CHANGEABLE}
    if changed and config.run.resume == "changed":
        other = {key: said for key, said in other.items() if key not in changed}
    differences = list(other.values())
    if state["global_batch"] != global_batch:
        differences.append(f"pictures per step ({state['global_batch']} then, {global_batch} now)")
    if state["base"] != base:
        differences.append(f"the base (other weights than in {then.get('model.base') or 'the bundled demo'})")
    if state.get("beneath", "") != beneath:
        differences.append(f"model.beneath (another checkpoint than {then.get('model.beneath') or 'none'})")
    if "pictures" in state:
        differences += _other_pictures(read_pictures(state["pictures"]), pictures)
    if differences:
        go_on = 'go on with them by run.resume = "changed", ' if differences == list(changed.values()) else ""
        raise OSEDiffError(
            f"{path} belongs to another run, different in {'; '.join(differences)}: restore the settings, "
            f"{go_on}or begin a run of its own with run.out and model.init_from"
        )
    if changed:
        log.info("Going on with other settings: %s.", "; ".join(changed.values()))
    newer = [name for name, version in library_versions().items() if state["libraries"].get(name) != version]
    if newer:
        log.warning("Resuming with other versions of %s: the last bits may differ.", ", ".join(newer))


def _other_pictures(then: Pictures, now: Pictures) -> Iterator[str]:
    for name in dict.fromkeys([*then, *now]):
        changed = changes(then.get(name, ()), now.get(name, ()))
        if changed:
            yield f"{name} ({changed})"


def shared_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings, by section.key, that all processes of a run must have in common."""
    settings = dict(_settings(dataclasses.asdict(config)))
    return {key: value for key, value in settings.items() if key not in (FREE | PLACES) - PACE}


def library_versions() -> dict[str, str]:
    """Return the versions of what the numbers depend on."""
    return {name: metadata.version(name) for name in LIBRARIES}


def _settings(table: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten a nested table to section.key, lists as tuples."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{where}{key}.")
        else:
            yield where + key, tuple(value) if isinstance(value, list) else value

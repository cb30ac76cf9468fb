"""The critic's LoRA in a file of its own, which a later run on the same base goes on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from osediff_core.errors import OSEDiffError
from osediff_core.weights.checkpoint import save_tensors
from osediff_core.weights.tensorfile import TensorFile

from ..networks.backbone import Backbone
from ..networks.config import ModelConfig

FORMAT, FORMAT_VERSION = "osediff-critic", "1"
BASE = "base_fingerprint"


def write_critic(path: Path, backbone: Backbone, base: str, metadata: Mapping[str, str]) -> None:
    """Write the critic's tensors under the names that the state has. base: the fingerprint of the base."""
    told = {"format": FORMAT, "format_version": FORMAT_VERSION, BASE: base, **_shape(backbone.config)}
    save_tensors(path, backbone.critic_parameters(), {**metadata, **told})


def open_critic(config: ModelConfig) -> TensorFile:
    """Look at the file `critic_from`, of which no tensor is read yet.

    Raises OSEDiffError where it is no critic, or one of another shape than the configuration's.
    """
    file = TensorFile(config.critic_from)
    kind = file.metadata.get("format"), file.metadata.get("format_version")
    if kind != (FORMAT, FORMAT_VERSION):
        raise OSEDiffError(
            f"{file.path} is no critic, expected the format {FORMAT} {FORMAT_VERSION}, got {_said(kind)}: "
            "give model.critic_from a file that a run with run.keep_critic wrote"
        )
    for key, wanted in _shape(config).items():
        found = file.metadata.get(key, "nothing")
        if found != wanted:
            raise OSEDiffError(
                f"model.critic_from has a critic with {key} = {found}, expected {wanted}: set model.{key} to "
                f"that of {file.path}, or leave model.critic_from out"
            )
    return file


def load_critic(file: TensorFile, backbone: Backbone, base: str) -> None:
    """Copy the tensors into the critic. Raises OSEDiffError where they are of another base, or damaged."""
    if file.metadata.get(BASE) != base:
        theirs, ours = file.metadata.get("base", "unsaid"), backbone.config.base or "the bundled demo base"
        raise OSEDiffError(
            f"{file.path} is the critic of another base ({theirs}), expected one of {ours}: give model.base "
            "the base that it was trained on, or leave model.critic_from out"
        )
    tensors = {name: file.read(name) for name in file.shapes}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise OSEDiffError(
                f"{file.path} is damaged: {name} has values that are not numbers; get it again"
            )
    try:
        backbone.load_critic(tensors)
    except OSEDiffError as error:
        raise OSEDiffError(f"{file.path} is damaged: {error}; get it again") from error


def _shape(config: ModelConfig) -> dict[str, str]:
    """Say what decides which tensors a critic has, and what they mean, by the settings of `model`."""
    return {
        "rank_unet": str(config.rank_unet),
        "lora_alpha": str(float(config.lora_alpha)),
        "critic_layers": config.critic_layers,
    }


def _said(kind: tuple[str | None, ...]) -> str:
    return " ".join(word for word in kind if word) or "none"

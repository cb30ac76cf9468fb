"""Where the numbers and pictures of a run go: TensorBoard, Weights & Biases, or nowhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from osediff_core.color import to_levels
from osediff_core.errors import OSEDiffError


class Tracker(Protocol):
    """Something that keeps numbers and pictures by step."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Keep numbers by name."""
        ...

    def picture(self, name: str, image: Tensor, step: int) -> None:
        """Keep a picture (3, H, W) in [0, 1]."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


def build_tracker(name: Literal["tensorboard", "wandb", "none"], out: Path, start: int) -> Tracker:
    """Open the tracker of that name for a run that has taken `start` steps.

    Raises OSEDiffError where its package is not installed.
    """
    if name == "tensorboard":
        return TensorBoard(out / "tensorboard", start)
    return WeightsAndBiases(out, start) if name == "wandb" else Nothing()


class TensorBoard:
    """TensorBoard event files in a folder."""

    def __init__(self, folder: Path, start: int) -> None:
        """Go on after step `start`: later entries of an interrupted run are dropped."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise OSEDiffError(
                'TensorBoard is not installed: pip install tensorboard, or set `run.tracker = "none"`'
            ) from error
        self.writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Keep numbers by name."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, name: str, image: Tensor, step: int) -> None:
        """Keep a picture (3, H, W) in [0, 1]."""
        self.writer.add_image(name, image, step)

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, named after the folder; its own environment variables say where it goes."""

    def __init__(self, out: Path, start: int) -> None:
        """Begin the run, or go on with it after a resume."""
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise OSEDiffError(
                'Weights & Biases is not installed: pip install wandb, or set `run.tracker = "tensorboard"`'
            ) from error
        self._wandb: Any = wandb
        out.mkdir(parents=True, exist_ok=True)
        place = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]  # one run for each folder
        resume = "allow" if start else None
        self.run = wandb.init(project="osediff", name=out.name, id=place, dir=str(out), resume=resume)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Keep numbers by name."""
        self.run.log(dict(values), step=step)

    def picture(self, name: str, image: Tensor, step: int) -> None:
        """Keep a picture (3, H, W) in [0, 1]."""
        pixels = to_levels(image).permute(1, 2, 0).numpy()
        self.run.log({name: self._wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        """Write what is left."""
        self.run.finish()


class Nothing:
    """Keeps nothing."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def picture(self, name: str, image: Tensor, step: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

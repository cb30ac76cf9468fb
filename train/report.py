"""What a person sees of a run: progress bar, TensorBoard, sample pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from osediff_core.errors import OSEDiffError
from osediff_core.images import write_image

from .config import RunConfig


class Report:
    """Shows the losses while they come; closes with `close`."""

    def __init__(self, config: RunConfig, start: int = 0) -> None:
        """Open the progress bar, and a TensorBoard log in `out`/tensorboard where that is asked for."""
        self.out, self.every = Path(config.out), config.log_every
        self.bar = tqdm(total=config.steps, initial=start, unit="step", dynamic_ncols=True)
        self.writer = None
        if config.tracker == "tensorboard":
            self.writer = _summary_writer(self.out / "tensorboard", start)

    def losses(self, step: int, values: Mapping[str, Tensor], learning_rate: float) -> None:
        """Move the bar; every `log_every` steps show and log the step's values."""
        self.bar.update()
        if step % self.every and step != 1:
            return
        numbers = {name: float(value) for name, value in values.items()}
        short = {name.split("/")[1]: n for name, n in numbers.items() if name.startswith("loss/")}
        self.bar.set_postfix({name: f"{n:.4g}" for name, n in short.items()})
        if self.writer is not None:
            for name, number in (numbers | {"learning_rate": learning_rate}).items():
                self.writer.add_scalar(name, number, step)

    def samples(self, step: int, lq: Tensor, sr: Tensor, hq: Tensor) -> None:
        """Write one picture with a row LQ | SR | HQ per sample; all (N, 3, H, W) in [0, 1]."""
        grid = contact_sheet(lq, sr, hq)  # (3, N H, 3 W)
        folder = self.out / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"{step:07d}.png", grid[None])
        if self.writer is not None:
            self.writer.add_image("LQ | SR | HQ", grid, step)

    def close(self) -> None:
        """End the bar and flush the log."""
        self.bar.close()
        if self.writer is not None:
            self.writer.close()


def contact_sheet(*columns: Tensor) -> Tensor:
    """Put batches (N, 3, H, W) side by side, one row per sample: (3, N H, columns W), float32 on the CPU."""
    rows = torch.cat([c.detach().float().cpu() for c in columns], dim=3)  # (N, 3, H, columns W)
    return torch.cat(list(rows), dim=1)


def _summary_writer(folder: Path, start: int):  # noqa: ANN202  (tensorboard is imported only where it is used)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise OSEDiffError(
            'TensorBoard is not installed: pip install tensorboard, or set `run.tracker = "none"`'
        ) from error
    # What an interrupted run logged after the state that is taken up would be there twice.
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)

"""What a person sees of a run: progress bar, TensorBoard, sample pictures, a page of all of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import write_image
from osediff_core.report.page import write_report
from osediff_core.whole_files import sweep

from ..config import TrainConfig
from .curves import Curves
from .run_page import run_page, sample_sheet
from .trackers import build_tracker

log = logging.getLogger(__name__)

PAGE = "report.html"
GATHERED = ("mean/", "sum/", "count/")


class TrainingLog:
    """Shows the losses while they come; closes with `close`."""

    def __init__(self, config: TrainConfig, start: int = 0) -> None:
        """Open the progress bar, and a TensorBoard log in `out`/tensorboard where that is asked for."""
        run = config.run
        self.config, self.out, self.every = config, Path(run.out), run.log_every
        self.tracker = build_tracker(run.tracker, self.out, start)
        self.curves = Curves(self.out, start)
        self.bar = tqdm(total=run.steps, initial=start, unit="step", dynamic_ncols=True)
        self._since: dict[str, list[Tensor]] = {}  # what is gathered over the steps between two entries

    def losses(self, step: int, values: Mapping[str, Tensor], learning_rate: float) -> None:
        """Move the bar; every `log_every` steps show and log the step's values.

        Names that begin with "mean/" are averaged over the steps since the last entry, "sum/" is divided by
        the "count/" of the same name, where there was any.
        """
        self.bar.update()
        for name, value in values.items():
            if name.startswith(GATHERED):
                self._since.setdefault(name, []).append(value)
        if step % self.every and step != 1:
            return
        numbers = {name: float(value) for name, value in values.items() if not name.startswith(GATHERED)}
        numbers |= gathered(self._since)
        self._since = {}
        short = {name.split("/")[1]: n for name, n in numbers.items() if name.startswith("loss/")}
        self.bar.set_postfix({name: f"{n:.4g}" for name, n in short.items()})
        self._keep(step, numbers | {"learning_rate": learning_rate})

    def pace(self, step: int, values: Mapping[str, float]) -> None:
        """Log how fast the run is, and what its time goes into."""
        self._keep(step, values)

    def measures(self, step: int, values: Mapping[str, float]) -> None:
        """Log how well the validation samples are restored, and show it on the page."""
        self._keep(step, {f"validation/{name}": value for name, value in values.items()})
        self._write_page()

    def samples(self, step: int, lq: Tensor, sr: Tensor, hq: Tensor) -> None:
        """Write one picture with a row LQ | SR | HQ per sample; all (N, 3, H, W) in [0, 1], square."""
        grid = contact_sheet(lq, sr, hq)  # (3, N H, 3 W)
        sheet = sample_sheet(self.out, step)
        sheet.parent.mkdir(parents=True, exist_ok=True)
        sweep(sheet.parent)
        write_image(sheet, grid[None])
        self.tracker.picture("LQ | SR | HQ", grid, step)

    def close(self) -> None:
        """End the bar, flush the log, and leave the page."""
        self.bar.close()
        self.tracker.close()
        self._write_page()

    def _keep(self, step: int, values: Mapping[str, float]) -> None:
        self.tracker.numbers(values, step)
        self.curves.add(step, values)

    def _write_page(self) -> None:
        """Write `out`/report.html; a page that cannot be written stops no training."""
        try:
            write_report(self.out / PAGE, run_page(self.config, self.curves))
        except OSEDiffError as error:
            log.warning("The page of this run is not written: %s", error)


def gathered(since: Mapping[str, list[Tensor]]) -> dict[str, float]:
    """Turn what was gathered into numbers: means, and sums over counts where something was counted."""
    totals = {name: float(torch.stack(values).sum()) for name, values in since.items()}
    numbers = {}
    for name, total in totals.items():
        kind, label = name.split("/", 1)
        if kind == "mean":
            numbers[label] = total / len(since[name])
        elif kind == "sum" and totals[f"count/{label}"] > 0:
            numbers[label] = total / totals[f"count/{label}"]
    return numbers


def contact_sheet(*columns: Tensor, across: int = 1) -> Tensor:
    """Put batches (N, 3, H, W) side by side, `across` in a row: float32 (3, rows H, across columns W).

    What is left of the last row is grey. The sheet lies on the CPU.
    """
    samples = list(torch.cat([c.detach().float().cpu() for c in columns], dim=3))  # (3, H, columns W) each
    samples += [torch.full_like(samples[0], 0.5)] * (-len(samples) % across)
    rows = [torch.cat(samples[i : i + across], dim=2) for i in range(0, len(samples), across)]
    return torch.cat(rows, dim=1)

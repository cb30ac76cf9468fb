"""Train the generator of the small problem with different losses from one start, and measure it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from osediff_core.model import OSEDiff
from osediff_core.whole_files import sweep, write_whole

from ..config import TrainConfig
from ..engine.steps import Stepper
from ..networks.backbone import Backbone
from ..objectives.batch import Batch
from ..objectives.draws import draw
from ..objectives.registry import uses_critic, uses_hq_latents
from ..optim.ema import RunningAverage
from ..programs.tables import to_toml
from ..randomness.streams import stream
from .base import POOL, base_path, embeddings, trained_base
from .measures import Measured, measure, psnr, spoiled
from .textures import degraded, samples

log = logging.getLogger(__name__)

CONFIG = Path(__file__).parent.parent / "configs" / "small_problem.toml"
Changes = dict[str, dict[str, Any]]
"""What a row has other than CONFIG: section -> setting -> value."""
LOSSES: dict[str, Changes] = {
    "data term alone": {"loss": {"lambda_vsd": 0.0}},
    "with VSD": {},
    "with CSD": {"loss": {"lambda_vsd": 0.0, "lambda_csd": 0.1}},
}
"""Rows of the first table: from one start, with one loss or another."""
SETTINGS: dict[str, Changes] = {
    "one critic step": {"loss": {"critic_updates": 1}},
    "four critic steps": {"loss": {"critic_updates": 4}},
    "no guidance": {"loss": {"guidance": 1.0}},
    "a third of the rate": {"optim": {"learning_rate": 3.3e-4}},
    "timesteps below 500": {"loss": {"vsd_last_step": 500}},
    "the paper's form": {"loss": {"vsd_form": "paper"}},
    "one critic step, a third of the rate": {
        "loss": {"critic_updates": 1},
        "optim": {"learning_rate": 3.3e-4},
    },
}
"""Rows of the second table: VSD with one setting changed, to see which of them let it settle."""
BEYOND: dict[str, Changes] = {
    "target score matching": {"loss": {"lambda_vsd": 0.0, "lambda_tsm": 1.0}},
    "VSD and target score matching": {"loss": {"lambda_vsd": 0.7, "lambda_tsm": 0.3}},
    "VSD and a GAN on the critic's features": {"loss": {"lambda_diffusion_gan": 1e-3}},
}
"""Rows of the third table: objectives that the paper does not have, in their papers' shares."""
ROWS = LOSSES | SETTINGS | BEYOND
POINTS = 6
"""How often a run is measured, its end included."""
SHOWN = 8
"""Restored samples that a result keeps for the picture."""


@dataclass(frozen=True)
class Point:
    """What was measured after `step` steps, of the generator as it is and of its running average."""

    step: int
    raw: Measured
    average: Measured
    critic: float
    """The critic's loss, a mean over the steps since the last point; 0 without VSD."""
    norm: float
    """The generator's gradient norm before clipping, likewise."""
    agreement: float
    """PSNR of the generator's samples to those of its running average, dB."""


@dataclass(frozen=True)
class Result:
    """One run: its row, seed and configuration, and how it went."""

    row: str
    seed: int
    config: str
    points: list[Point]

    @property
    def end(self) -> Measured:
        """What is exported at the end: the running average."""
        return self.points[-1].average


class SmallTraining:
    """One training from the base, on samples of the pool, through the trainer's own steps."""

    def __init__(self, config: TrainConfig, model: OSEDiff) -> None:
        """Add the adapters to the base, in place."""
        self.config, self.device = config, torch.device("cpu")
        seed = config.run.seed
        loss, weights = config.loss, stream(seed, "weights")
        self.backbone = Backbone(model, config.model, weights, uses_critic(loss), uses_hq_latents(loss))
        self.backbone.merge_adapters()
        self.prompt, negative = embeddings().split(1)  # (1, 1, D) each
        self.stepper = Stepper(self.backbone, config, None, self.prompt, negative)
        self.average = RunningAverage(self.backbone.generator_parameters(), config.optim.ema_decay)
        self.pool = samples(POOL, seed=0)

    def batches(self) -> Iterator[Batch]:
        """Give the batch of each step: samples of the pool, their LQ, and what is random about them."""
        run, order = self.config.run, stream(self.config.run.seed, "order")
        for step in range(run.steps):
            chosen = torch.randint(len(self.pool), (run.batch_size,), generator=order)
            hq = self.pool[chosen]  # (B, 3, H, W)
            numbers = range(step * run.batch_size, (step + 1) * run.batch_size)
            shape = tuple(self.backbone.model.encode(hq[:1]).shape[1:])
            draws = draw(run.seed, numbers, shape, self.config.loss, self.device)
            yield Batch(degraded(hq), hq, draws)

    def points(self) -> Iterator[Point]:
        """Train, and measure POINTS times."""
        steps, since = self.config.run.steps, []
        measured = {round(steps * n / POINTS) for n in range(1, POINTS + 1)}
        for step, batch in enumerate(self.batches(), start=1):
            values = self.stepper.step([batch])
            self.average.update()
            since.append([float(values.get(name, 0.0)) for name in ("loss/critic", "norm/generator")])
            if step in measured:
                raw = self.restored(spoiled())
                with self.average.applied():
                    average = self.restored(spoiled())
                critic, norm = torch.tensor(since).mean(0).tolist()
                yield Point(step, measure(raw), measure(average), critic, norm, psnr(raw, average))
                since = []

    @torch.no_grad()
    def restored(self, lq: Tensor) -> Tensor:
        """Restore (B, 3, H, W) in [0, 1] with the generator as it is."""
        return self.backbone.generate(lq, self.prompt, None)[0]


def row_config(shared: TrainConfig, row: str, seed: int) -> TrainConfig:
    """Give the configuration of a row: what ROWS changes, and a seed."""
    changed = {name: replace(getattr(shared, name), **values) for name, values in ROWS[row].items()}
    return replace(shared, **changed, run=replace(shared.run, seed=seed))


def description(config: TrainConfig) -> str:
    """Name all that a result depends on: the configuration, and the base, which has settings of its own."""
    return f"{to_toml(config)}\n# base {base_path(Path()).stem}\n"


def run_all(shared: TrainConfig, seeds: int, rows: Sequence[str]) -> list[Result]:
    """Train and measure what has no result yet, seed by seed; all is kept in the run's folder."""
    folder = Path(shared.run.out)
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    results = []
    for seed in range(seeds):
        for row in rows:
            config = row_config(shared, row, seed)
            path = folder / f"{list(ROWS).index(row)}_{seed}.json"
            found = read_result(path)
            if found is None or found.config != description(config):
                found = run_row(config, row, folder)
                write_whole(path, json.dumps(asdict(found), indent=1).encode())
            results.append(found)
    return results


def read_result(path: Path) -> Result | None:
    """Read a result that an earlier call left, if there is one."""
    if not path.exists():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    points = [
        Point(**(point | {name: Measured(**point[name]) for name in ("raw", "average")}))
        for point in stored["points"]
    ]
    return Result(**(stored | {"points": points}))


def run_row(config: TrainConfig, row: str, folder: Path) -> Result:
    """Train one row to its end; leaves what it makes of the first samples beside its result."""
    run = SmallTraining(config, trained_base(folder))
    points = []
    for point in run.points():
        points.append(point)
        log.info("%s, seed %d, step %d: %s", row, config.run.seed, point.step, point.average)
    with run.average.applied():
        shown = run.restored(spoiled()[:SHOWN])
    write_whole(shown_path(folder, row, config.run.seed), save({"sr": shown.contiguous()}))
    return Result(row, config.run.seed, description(config), points)


def shown_path(folder: Path, row: str, seed: int) -> Path:
    """Name the file of the samples that a row restored, SHOWN of them."""
    return folder / f"{list(ROWS).index(row)}_{seed}.safetensors"

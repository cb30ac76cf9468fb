"""Our own Table 3: `python -m train.ablation` trains its rows on the demo base for docs/ablation.md.

Below the paper's rows come objectives that it does not have, weighed as in their configurations. Every row
gets the same pictures, noise and number of steps, and is measured on the held-out photographs. A row that has
been measured before, with the same configuration, is not trained again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from osediff_core.base.load import DEMO_BASE
from osediff_core.commands.console import show
from osediff_core.errors import OSEDiffError
from osediff_core.model import OSEDiff
from osediff_core.pipeline.run import restore
from osediff_core.whole_files import sweep, write_whole

from .config import TrainConfig
from .demo.evaluation import SCALE, HeldOutPair, bicubic, degraded_pairs, measure
from .demo.heldout import heldout_crops
from .engine.loop import train
from .engine.setup import fingerprint
from .evaluation.seeds import beyond_chance, quantile, spread
from .programs.console import refuse, start_console
from .programs.pages import write_parts
from .programs.tables import read_config, to_toml

CONFIG = Path(__file__).parent / "configs" / "ablation.toml"
GAN_WEIGHT = 0.05
"""Of the GAN loss, beside data terms of this size; the paper does not give its own."""
OURS = "OSEDiff (VSD in latent)"
ROWS: dict[str, dict[str, Any]] = {
    "w/o VSD loss": {"lambda_vsd": 0.0},
    "GAN loss": {"lambda_vsd": 0.0, "lambda_gan": GAN_WEIGHT},
    "VSD loss in image domain": {"vsd_space": "image"},
    OURS: {},
    "target score matching": {"lambda_vsd": 0.0, "lambda_tsm": 0.2},
    "VSD and target score matching": {
        "lambda_vsd": 0.14, "lambda_tsm": 0.06, "vsd_first_step": 50, "vsd_last_step": 950,
    },
    "VSD and a GAN on the critic's features": {"lambda_diffusion_gan": 2e-4},
}  # fmt: skip
"""What each changes of the configuration's losses: the paper's four, then those beyond it."""
PART = "Table 3"
"""Of docs/ablation.md, that this program writes; the words around it are people's."""
MEASURES = ("psnr", "ssim", "sharpness")
HEADS = ("PSNR-Y, dB", "SSIM-Y", "sharpness", "CPU seconds a step")


@dataclass(frozen=True)
class AblationResult:
    """One training run: what it was, what its restored pictures measure, how long a step took."""

    row: str
    seed: int
    config: str
    psnr: float
    ssim: float
    sharpness: float
    seconds: float


def run_row(config: TrainConfig, row: str, pairs: list[HeldOutPair]) -> AblationResult:
    """Train one row and measure its checkpoint."""
    start = time.process_time()
    newest = train(config)
    _check_finished(newest, config)
    seconds = (time.process_time() - start) / config.run.steps
    base = config.model.base or DEMO_BASE
    model = OSEDiff.from_pretrained(base, newest, device="cpu", dtype="float32")
    found, _ = measure(row, lambda lq: restore(model, lq, scale=SCALE, color="none"), pairs)
    return AblationResult(
        row, config.run.seed, to_toml(config), found.psnr, found.ssim, found.sharpness, seconds
    )


def _check_finished(newest: Path, config: TrainConfig) -> None:
    """Raise OSEDiffError for a run that a signal ended early: it must not be measured as if it were done."""
    if not (Path(config.run.out) / f"osediff_{config.run.steps:07d}.safetensors").is_file():
        raise OSEDiffError(f"stopped before {newest} was trained to its end: start again to go on")


def row_config(base: TrainConfig, row: str, seed: int) -> TrainConfig:
    """Give the configuration of a row: the loss that ROWS names, a seed, and a folder of its own."""
    number = list(ROWS).index(row)
    run = replace(base.run, seed=seed, out=str(Path(base.run.out) / f"row{number}_seed{seed}"))
    return replace(base, loss=replace(base.loss, **ROWS[row]), run=run)


def run_all(base: TrainConfig, seeds: int, pairs: list[HeldOutPair]) -> list[AblationResult]:
    """Train and measure what has no result yet, seed by seed; results are kept in the run's folder."""
    store = Path(base.run.out) / "results.json"
    store.parent.mkdir(parents=True, exist_ok=True)
    sweep(store.parent)
    known = [AblationResult(**item) for item in json.loads(store.read_text())] if store.exists() else []
    results = []
    for seed in range(seeds):
        for row in ROWS:
            config = row_config(base, row, seed)
            done = [r for r in known if r.row == row and r.config == to_toml(config)]
            if not done:
                done = [run_row(config, row, pairs)]
                known += done
                write_whole(store, json.dumps([asdict(r) for r in known], indent=1).encode())
            results.append(done[0])
    return results


def table(results: list[AblationResult], reference: Mapping[str, float]) -> str:
    """Lay the results out in Markdown: a line per row, mean ± standard error over seeds, and bicubic."""
    lines = [f"| | {' | '.join(HEADS)} |", "|---" * (len(HEADS) + 1) + "|"]
    lines.append("| bicubic | " + " | ".join(f"{reference[name]:.3f}" for name in MEASURES) + " | – |")
    for row in ROWS:
        runs = [r for r in results if r.row == row]
        cells = [spread([getattr(r, name) for r in runs]) for name in (*MEASURES, "seconds")]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(results: list[AblationResult]) -> str:
    """Compare each row with the paper's, seed by seed: the noise that the rows of a seed share falls out.

    Bold is what chance alone does not explain.
    """
    ours = {r.seed: r for r in results if r.row == OURS}
    lines = ["| minus OSEDiff, by seed | PSNR-Y, dB | SSIM-Y | sharpness |", "|---|---|---|---|"]
    for row in ROWS:
        if row == OURS:
            continue
        runs = [r for r in results if r.row == row]
        gaps = [[getattr(r, m) - getattr(ours[r.seed], m) for r in runs] for m in MEASURES]
        cells = [f"**{spread(gap)}**" if beyond_chance(gap) else spread(gap) for gap in gaps]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(config: TrainConfig, seeds: int, pairs: list[HeldOutPair], tables: str, base: str) -> str:
    """Write this program's part of docs/ablation.md: what was done, and the tables."""
    run, data = config.run, config.data
    name = config.model.base or "the bundled demo's"
    command = f"python -m train.ablation --steps {run.steps} --seeds {seeds}"
    return f"""Written by `{command}`: the four losses of the paper's
Table 3, and three beyond it, each trained on a CPU from {seeds} seeds, with what
`train/configs/ablation.toml` says: {run.steps} steps of {run.batch_size} crops of {data.crop}×{data.crop}.
The base is {name}, fingerprint `{base[:12]}`. Rows of one seed see the same
crops and the same noise. Measured on {len(pairs)} held-out
crops, 4×, without colour matching; mean ± standard error over the seeds.

{tables}

Sharpness is the mean vertical difference of luma over the original's: 1 is as sharp, and noise counts too.
Bold is a difference with zero outside the 95 % interval of Student's t, {quantile(seeds):.1f} standard errors
for {seeds} runs. Each cell is a test of its own, so one of many may be bold by chance."""


def main(argv: list[str] | None = None) -> int:
    """Train, print the table, and write it where a page is named; returns the exit status."""
    args = parse(argv)
    start_console()
    try:
        config = shortened(read_config(TrainConfig, args.config), args.steps)
        pairs = degraded_pairs(heldout_crops(), seed=1000)
        reference, _ = measure("bicubic", bicubic, pairs)
        results = run_all(config, args.seeds, pairs)
        tables = f"{table(results, vars(reference))}\n\n{differences(results)}"
        base = fingerprint(
            OSEDiff.from_pretrained(config.model.base or DEMO_BASE, device="cpu", dtype="float32")
        )
        if args.doc is not None:
            write_parts(args.doc, {PART: page(config, args.seeds, pairs, tables, base)})
    except OSEDiffError as error:
        return refuse(error)
    show(tables if args.doc is None else f"{tables}\n\nwritten to {args.doc}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m train.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="what all rows share")
    parser.add_argument("--steps", type=int, help="steps of each run, instead of the configuration's")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row (default 3)")
    parser.add_argument("--doc", type=Path, help="page to write into, such as docs/ablation.md")
    args = parser.parse_args(argv)
    if args.seeds < 1 or (args.steps is not None and args.steps < 1):
        parser.error("--seeds and --steps must be at least 1")
    return args


def shortened(config: TrainConfig, steps: int | None) -> TrainConfig:
    """Give the runs another length; a learning rate that falls over the run falls over the new one."""
    if steps is None:
        return config
    falls = config.optim.decay_steps == config.run.steps
    optim = replace(config.optim, decay_steps=steps) if falls else config.optim
    return replace(config, run=replace(config.run, steps=steps), optim=optim)


if __name__ == "__main__":
    sys.exit(main())

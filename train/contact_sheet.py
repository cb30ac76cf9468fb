"""Look at the degradation: `python -m train.contact_sheet CONFIG.toml OUT.png` writes pairs LQ | HQ.

They are the run's own samples, those that training with this configuration and seed sees.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from osediff_core.commands.console import show
from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import write_image

from .config import TrainConfig
from .data import REMARKS, Sample, build_dataset
from .programs.console import refuse, start_console
from .programs.tables import read_config
from .watch.report import contact_sheet

PAIRS_ACROSS = 4


def sheet(samples: list[Sample]) -> Tensor:
    """Lay pairs LQ | HQ out, four across: (1, 3, H, W) in [0, 1]."""
    lq, hq = (torch.stack([sample[half] for sample in samples]) for half in ("lq", "hq"))  # (N, 3, H, W)
    return contact_sheet(lq, hq, across=min(PAIRS_ACROSS, len(samples)))[None]


def remarks(samples: Iterable[Sample]) -> dict[str, int]:
    """Count what was odd about the samples' pictures, by the names of REMARKS."""
    total = torch.stack([sample["remarks"] for sample in samples]).sum(0)  # (5,)
    return dict(zip(REMARKS, total.tolist(), strict=True))


def main(argv: list[str] | None = None) -> int:
    """Write the sheet; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.contact_sheet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="training configuration (TOML)")
    parser.add_argument("out", type=Path, help="picture to write")
    parser.add_argument("--sources", nargs="+", help="instead of data.sources")
    parser.add_argument("--first", type=int, default=0, help="number of the first sample (default 0)")
    parser.add_argument("--count", type=int, default=16, help="number of pairs (default 16)")
    args = parser.parse_args(argv)
    if args.count < 1 or args.first < 0:
        parser.error("--count must be at least 1, and --first at least 0")
    start_console()
    try:
        config = read_config(TrainConfig, args.config)
        data = config.data
        if args.sources:
            data = replace(data, sources=tuple(args.sources), weights=(), lq_sources=())
        degradation = replace(config.degradation, where="workers")
        dataset = build_dataset(data, degradation, config.run.seed)
        samples = [dataset[index] for index in range(args.first, args.first + args.count)]
        write_image(args.out, sheet(samples))
    except OSEDiffError as error:
        return refuse(error)
    odd = ", ".join(f"{count} {name}" for name, count in remarks(samples).items() if count) or "nothing odd"
    show(f"{len(samples)} pairs LQ | HQ in {args.out} ({odd})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

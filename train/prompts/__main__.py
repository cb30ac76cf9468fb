"""Make the prompts of all training pictures once: `python -m train.prompts CONFIG.toml`.

They go into the file that prompts.file names, one prompt for each whole picture, squeezed to the crop's size
(a tagger squeezes it anyway); prompts of LQ look at the picture as it was degraded once, or at the real LQ.
An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from osediff_core.base.load import resolve_device
from osediff_core.commands.console import show
from osediff_core.errors import OSEDiffError
from osediff_core.resize import resize_bicubic

from ..config import TrainConfig
from ..data import build_dataset, build_validation
from ..data.sources import Source, SourcePicture
from ..degradation import degrade
from ..programs.console import refuse, start_console
from ..programs.tables import read_config
from ..randomness.streams import stream
from .prompter import Describe, build_describe, read_prompts, write_prompts

SAVE_EVERY = 500
"""Pictures between two writings of the file."""


def view(found: SourcePicture, config: TrainConfig) -> Tensor:
    """Give what is looked at: (1, 3, crop, crop) in [0, 1], of HQ or LQ."""
    size = (config.data.crop, config.data.crop)
    if config.prompts.of == "lq" and found.lq is not None:
        return resize_bicubic(found.lq.rgb, size).float() / 255
    hq = resize_bicubic(found.hq.rgb, size).float() / 255
    if config.prompts.of == "hq":
        return hq
    generator = stream(config.run.seed, "prompt", found.name)
    return degrade(hq[0], replace(config.degradation, where="workers"), generator)[None]


def make_prompts(config: TrainConfig, sources: list[Source], describe: Describe) -> dict[str, str]:
    """Look at every picture that has no prompt yet; writes the file, and returns all of it."""
    known = Path(config.prompts.file).exists()
    prompts = read_prompts(config.prompts) if known else {}
    for source in sources:
        for found in tqdm(source.once(skip=prompts), unit="picture", dynamic_ncols=True):
            prompts[found.name] = describe(view(found, config))[0]
            if len(prompts) % SAVE_EVERY == 0:
                write_prompts(config.prompts, prompts)
    write_prompts(config.prompts, prompts)
    return prompts


def main(argv: list[str] | None = None) -> int:
    """Make the file; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.prompts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="training configuration (TOML)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    args = parser.parse_args(argv)
    start_console()
    try:
        config = read_config(TrainConfig, args.config)
        if config.prompts.source == "fixed" or not config.prompts.file:
            raise OSEDiffError("set prompts.source to tags or description, and prompts.file to what is made")
        parts = (config.data, config.degradation, config.run.seed)
        sources = build_dataset(*parts).sources
        if config.data.validation:
            sources = [*sources, *build_validation(*parts).sources]
        describe, _ = build_describe(config.prompts, torch.device(resolve_device(args.device)))
        prompts = make_prompts(config, sources, describe)
    except OSEDiffError as error:
        return refuse(error)
    show(f"{len(prompts)} prompts in {config.prompts.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

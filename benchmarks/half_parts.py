"""Quality against time of bfloat16, part by part: every choice of encoder, UNet and decoder.

    OMP_NUM_THREADS=1 python -m benchmarks.half_parts "FOLDER/*_lr.png" [--base BASE --weights FILE]

The photographs are restored four times enlarged in float32, and with parts of the model in bfloat16: printed
are the processor's seconds as a share of float32's, and how far the pictures are from float32's, in the mean
and in the worst. The step itself is in float32 always. Without --base and --weights it is the demo.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from glob import glob
from typing import Any

import torch
from torch import Tensor

from osediff_core import OSEDiff
from osediff_core.pictures.images import read_image
from osediff_core.pipeline.plan import make_plan
from osediff_core.pipeline.run import finish, prepare
from osediff_core.pipeline.runtime import Runtime

PARTS = ("encoder", "UNet", "decoder")
CHOICES = list(itertools.product((False, True), repeat=len(PARTS)))
"""Of each part, whether it is in bfloat16."""
Choice = tuple[bool, ...]


@dataclass(frozen=True)
class Row:
    """What a choice costs: the share of float32's processor time, and PSNR from float32 in dB."""

    choice: Choice
    share: float
    mean: float
    worst: float

    def __str__(self) -> str:
        """Say it as a line of the table."""
        names = ", ".join(name for name, half in zip(PARTS, self.choice, strict=True) if half)
        return f"| {names} | {self.share:.2f} | {self.mean:.1f} | {self.worst:.1f} |"


class Timed:
    """Adds up the processor's seconds of parts, by part and number format."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, bool], list[float]] = defaultdict(list)

    def run(self, part: str, half: bool, work: Callable[[], Tensor]) -> Tensor:
        """Return what a part gives."""
        start = time.process_time()
        out = work()
        self.seconds[part, half].append(time.process_time() - start)
        return out

    def of(self, choice: Choice) -> float:
        """Return the seconds of a picture, medians of its parts."""
        return sum(
            statistics.mean(self.seconds[part, half]) for part, half in zip(PARTS, choice, strict=True)
        )


def restored(
    models: Mapping[bool, OSEDiff], embeds: Mapping[bool, Tensor], lq: Tensor, scale: float, timed: Timed
) -> Iterator[tuple[Choice, Tensor]]:
    """Yield a picture (1, 3, H, W) restored in every way, float32 first; models and embeds: by `half`."""
    plan = make_plan(models[False], *lq.shape[-2:], scale=scale, runtime=Runtime())
    x = prepare(lq, plan)  # (1, 3, h, w)
    latents = {half: timed.run(PARTS[0], half, partial(models[half].encode, x)) for half in (False, True)}
    for encoder, unet in itertools.product((False, True), repeat=2):
        z_lq = latents[encoder].to(models[unet].dtype)  # which UNet and step both see
        eps = timed.run(PARTS[1], unet, partial(models[unet].predict_noise, z_lq, embeds[unet]))
        z_hq = models[unet].predict_x0(z_lq, eps)  # (1, C, h / f, w / f)
        for decoder in (False, True):
            sr = timed.run(PARTS[2], decoder, partial(models[decoder].decode, z_hq))
            yield (encoder, unet, decoder), finish(sr, x, plan.size)


@torch.inference_mode()
def compare(options: Mapping[str, Any], pictures: Iterable[Tensor], scale: float = 4) -> list[Row]:
    """Restore pictures (1, 3, H, W) in every way; options: for `OSEDiff.from_pretrained`, without dtype."""
    models = {
        half: OSEDiff.from_pretrained(dtype=torch.bfloat16 if half else torch.float32, **options)
        for half in (False, True)
    }
    embeds = {half: model.encode_prompt([""]) for half, model in models.items()}  # (1, L, D) each
    timed, decibels = Timed(), defaultdict[Choice, list[float]](list)
    for lq in pictures:
        ways = restored(models, embeds, lq, scale, timed)
        _, exact = next(ways)
        for choice, sr in ways:
            error = (sr - exact).square().mean().clamp(min=1e-12)
            decibels[choice].append(-10 * error.log10().item())
    whole = timed.of(CHOICES[0])
    return [
        Row(choice, timed.of(choice) / whole, statistics.mean(found), min(found))
        for choice, found in decibels.items()
    ]


def main() -> None:
    """Print a table, the fastest last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pictures", help="a pattern of files, in quotation marks")
    parser.add_argument("--base", help="default, without --weights: the demo")
    parser.add_argument("--weights")
    parser.add_argument("--vocabulary")
    parser.add_argument("--decoder")
    args = parser.parse_args()
    options = {name: getattr(args, name) for name in ("base", "weights", "vocabulary", "decoder")}
    files = sorted(glob(args.pictures))
    rows = compare({**options, "device": "cpu"}, (read_image(file).rgb for file in files))
    print(f"{len(files)} pictures, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| in bfloat16 | of float32's time | mean, dB | worst, dB |\n|---|---|---|---|")
    for row in sorted(rows, key=lambda row: -row.share):
        print(row)


if __name__ == "__main__":
    main()

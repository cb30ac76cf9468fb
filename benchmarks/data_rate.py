"""How many pairs LQ/HQ a loading process makes in a second: `python benchmarks/data_rate.py [CONFIG]`.

Without a configuration it measures the published one (512 x 512, Real-ESRGAN degradation) on synthetic
photographs of 2 megapixels, as JPEG files and in a tar shard. What a run needs is batch size over step time.
In this process (0 workers) a pair's processor seconds are given too, which hold on a busy machine as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from osediff_core.color import to_levels
from train.config import TrainConfig, read_config
from train.data import build_dataset
from train.pictures.dead_leaves import dead_leaves


def write_pictures(folder: Path, count: int, side: int) -> tuple[Path, Path]:
    """Paint pictures into a folder, and pack them into a shard beside it."""
    pictures, shard = folder / "pictures", folder / "pictures.tar"
    pictures.mkdir()
    for number in range(count):
        picture = dead_leaves(side, torch.Generator().manual_seed(number))
        pixels = to_levels(picture).permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(pictures / f"{number}.jpg", quality=92)
    with tarfile.open(shard, "w") as tar:
        tar.add(pictures, arcname=".")
    return pictures, shard


def rate(config: TrainConfig, workers: int, pairs: int) -> dict[str, float]:
    """Measure pairs per second, all workers together, without the start of the processes."""
    torch.set_num_threads(1)
    dataset = build_dataset(config.data, config.degradation, 0)
    loader = DataLoader(dataset, batch_size=1, sampler=range(pairs + workers), num_workers=workers)
    batches = iter(loader)
    for _ in range(max(1, workers)):
        next(batches)
    start, processor = time.perf_counter(), time.process_time()
    count = sum(1 for _ in batches)
    value = count / (time.perf_counter() - start)
    found = {"pairs_per_s": value, "pairs_per_s_and_worker": value / max(1, workers)}
    here = {} if workers else {"processor_s_per_pair": (time.process_time() - processor) / count}
    return found | here


def main() -> None:
    """Print a line per case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, nargs="?", help="training configuration with its own sources")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="0: in this process")
    parser.add_argument("--pairs", type=int, default=24, help="pairs per measurement (default 24)")
    parser.add_argument("--pictures", type=int, default=12, help="synthetic pictures (default 12)")
    parser.add_argument("--side", type=int, default=1448, help="their side, pixels (default 1448)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.config:
            cases = {str(args.config): read_config(TrainConfig, args.config)}
        else:
            files, shard = write_pictures(Path(folder), args.pictures, args.side)
            plain = TrainConfig()
            face = replace(plain.degradation, kind="face")
            cases = {
                "files": with_source(plain, files),
                "files, no cache": with_source(plain, files, cache_mb=0),
                "shard, no cache": with_source(plain, shard, cache_mb=0),
                "face, no cache": replace(with_source(plain, files, cache_mb=0), degradation=face),
            }
        for name, config in cases.items():
            for workers in args.workers:
                found = {key: round(value, 3) for key, value in rate(config, workers, args.pairs).items()}
                print(json.dumps({"case": name, "crop": config.data.crop, "workers": workers} | found))


def with_source(config: TrainConfig, source: Path, **settings: int) -> TrainConfig:
    """The configuration with other pictures."""
    return replace(config, data=replace(config.data, sources=(str(source),), **settings))


if __name__ == "__main__":
    main()

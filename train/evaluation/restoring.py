"""Restore the pictures of a test set by one method, and note what that takes; a stopped run goes on."""

from __future__ import annotations

import json
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from osediff_core.color import to_levels
from osediff_core.errors import OSEDiffError, printable
from osediff_core.pictures.images import read_image, write_image
from osediff_core.whole_files import sweep, write_whole

from .data_sets import DataSet
from .methods import MethodConfig, Restore, build_method, fingerprint
from .pairs import Pair, check_scale, content

RUN = "run.json"


@dataclass
class Run:
    """What was done, and what it took: seconds of each picture, and the process's peak of memory in bytes.

    repeat: the largest difference of the picture that was restored twice, levels of 255.
    made_by, sources: the method's settings and files, and hashes of the pairs: by these a run that goes on
    knows its pictures.
    """

    made_by: dict[str, str]
    what: str = ""
    machine: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    peak: int = 0
    repeat: int | None = None

    @property
    def typical(self) -> float | None:
        """Median seconds of a picture, the first of each start apart: it is restored twice."""
        return statistics.median(self.seconds.values()) if self.seconds else None


def restore_set(config: MethodConfig, data: DataSet, out: Path, device: str, threads: int) -> Run:
    """Restore what is not there yet into `out`/NAME.png, in a process of its own, whose memory is measured.

    Raises OSEDiffError where `out` holds pictures of other settings, and for what goes wrong in the process.
    """
    run = read_run(out, config)
    missing = [pair for pair in data.pairs if not is_done(run, out, pair)]
    if not missing:
        return run
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_restore_missing, config, data, missing, out, device, threads).result()
        except BrokenProcessPool as error:
            raise OSEDiffError(
                f"the process that restored into {out} was killed, most likely for want of memory: "
                "start again to go on, with smaller pictures or more memory"
            ) from error


def read_run(out: Path, config: MethodConfig) -> Run:
    """Read what an earlier run left; OSEDiffError where that was another method."""
    made_by = made_of(config)
    try:
        run = Run(**json.loads((out / RUN).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Run(made_by)
    except (OSError, ValueError, TypeError) as error:
        raise OSEDiffError(f"{out / RUN} cannot be read: {error}; remove {out} to begin anew") from error
    if run.made_by != made_by:
        changed = sorted(
            k for k in made_by.keys() | run.made_by.keys() if made_by.get(k) != run.made_by.get(k)
        )
        raise OSEDiffError(
            f"the pictures in {out} were made with other settings ({', '.join(changed)} differ): "
            "give the method another name, or remove the folder"
        )
    return run


def made_of(config: MethodConfig) -> dict[str, str]:
    """Return the settings of a method, and a hash of its files."""
    return {name: str(value) for name, value in asdict(config).items()} | {"files": fingerprint(config)}


def is_done(run: Run, out: Path, pair: Pair) -> bool:
    """Whether this very picture was restored, and the result is still there."""
    return run.sources.get(pair.name) == content(pair) and (out / f"{pair.name}.png").is_file()


def _restore_missing(
    config: MethodConfig, data: DataSet, missing: list[Pair], out: Path, device: str, threads: int
) -> Run:
    """Do the work of the process: load the method once, restore the first picture twice, note each."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    where = torch.device(device)
    out.mkdir(parents=True, exist_ok=True)
    sweep(out)
    run = read_run(out, config)
    method, run.what = build_method(config, data, where)
    run.machine = (
        torch.cuda.get_device_name(where) if where.type == "cuda" else f"{device}, {threads} threads"
    )
    first, _ = _timed(method, missing[0], where)
    for pair in tqdm(
        missing, desc=printable(f"{out.parent.name}/{out.name}"), unit="picture", dynamic_ncols=True
    ):
        sr, seconds = _timed(method, pair, where)
        if pair is missing[0]:
            run.repeat = max(run.repeat or 0, _difference(first, sr))
        write_image(out / f"{pair.name}.png", sr)
        run.seconds[pair.name], run.sources[pair.name] = seconds, content(pair)
        run.peak = max(run.peak, peak_memory(where))
        write_whole(out / RUN, json.dumps(asdict(run), indent=1).encode())
    return run


def _timed(method: Restore, pair: Pair, device: torch.device) -> tuple[Tensor, float]:
    """Restore one picture; seconds from the picture in memory to the picture in memory."""
    if pair.hq is None:
        raise OSEDiffError(f"a comparison needs originals, and {pair.name} has none")
    lq, hq = read_image(pair.sr).rgb, read_image(pair.hq).rgb
    scale = check_scale(pair.name, lq, hq)
    _wait(device)
    start = time.perf_counter()
    sr = method(lq, scale)
    _wait(device)
    return sr, time.perf_counter() - start


def _difference(a: Tensor, b: Tensor) -> int:
    """Return the largest difference of two pictures in 8 bits, levels."""
    return int((to_levels(a).int() - to_levels(b).int()).abs().max())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Return the most memory this process has held, bytes: on the card, or resident.

    0 where nobody counts.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

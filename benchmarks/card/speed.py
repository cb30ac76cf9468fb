"""How fast pictures are restored, ours by several means and by other ways, and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.card.log import Cells, Log
from benchmarks.card.subjects import Subject
from benchmarks.speed import matrix_peak, published, tiled_by_diffusers
from osediff_core import OSEDiff, restore
from osediff_core.device.compiled import compile_parts

Restore = Callable[[Tensor], Tensor]
Work = tuple[str, tuple[int, int], int]
PEAK, RATE = "The fastest product of two square matrices", "1e12 multiply-accumulates/s"
SPEED, GRAPHS, KERNELS = "Seconds and memory, by output", "Captured graphs", "Where the time goes"
DTYPES = {"cuda": torch.float16}  # what a device computes in, where it is not float32
KERNELS_SHOWN = 12
COMPILED = "ours, compiled"


def measure(log: Log, subject: Subject) -> None:
    """Note all tables of speed, the most wanted rows first."""
    device = log.machine.device
    dtype = DTYPES.get(device.type, torch.float32)
    matrix = partial(matrix_peak, str(device), dtype, subject.scale.matrix)
    peak = log.row(PEAK, {"side": str(subject.scale.matrix)}, lambda: {RATE: matrix()}).get(RATE)
    for way, size, batch in works(subject):
        label = {"output": "{} x {}".format(*size), "batch": str(batch), "way": way}
        log.row(SPEED, label, partial(_row, log, subject, dtype, peak, way, size, batch))
    _graphs(log, subject, dtype)
    log.row(KERNELS, {"kernel": "all"}, partial(_kernels, log, subject, dtype))
    first = subject.scale.small  # last, as compilers take their time
    label = {"output": "{} x {}".format(*first), "batch": "1", "way": COMPILED}
    row = partial(_row, log, subject, dtype, peak, COMPILED, first, 1)
    log.row(SPEED, label, row, card_only=True)


def works(subject: Subject) -> Sequence[Work]:
    """Return way, size and batch of each row, in the order in which they are measured."""
    scale, several = subject.scale, subject.scale.batch
    first, middle = scale.sizes[0], scale.sizes[:3]
    return [
        *(("ours", size, 1) for size in scale.sizes),
        *(("published", size, 1) for size in middle),
        *(("ours", size, several) for size in middle[:2]),
        ("ours, channels_last", first, 1),
        ("published", first, several),
        *(("diffusers' tiling", size, 1) for size in middle),
        ("ours", scale.huge, 1),
        ("ours", scale.sizes[-1], several),
    ]


def runner(way: str, subject: Subject, dtype: torch.dtype) -> Restore:
    """Return what restores a batch by one way, (B, 3, h, w) uint8."""
    model = subject.like(dtype)
    if way == "published":
        return published(model, subject.checkpoint)
    if way == "diffusers' tiling":
        return tiled_by_diffusers(model)
    if way == "ours, channels_last":
        for part in (model.unet, model.vae):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if way == COMPILED:
        compile_parts([model.unet, model.vae.encoder, model.vae.decoder])
        model.compiled = True
    return partial(restore, model, dtype=torch.uint8)


def _row(
    log: Log, subject: Subject, dtype: torch.dtype, peak: object, way: str, size: tuple[int, int], batch: int
) -> Cells:
    """Return seconds, memory and arithmetic of one way; peak: 1e12 multiply-accumulates a second."""
    run, lq = runner(way, subject, dtype), subject.picture(size, batch)
    start = time.perf_counter()
    if way == COMPILED:  # whose operations cannot be counted
        macs = None
        run(lq)
    else:
        with FlopCounterMode(display=False) as counter:
            run(lq)
        macs = counter.get_total_flops() / 2e12
    log.machine.wait()
    cold = time.perf_counter() - start
    _, taken = log.machine.peak(lambda: run(lq))
    warm = log.machine.seconds(lambda: run(lq), subject.scale.times)
    return {
        "first, s": cold,
        "warm, s": warm,
        "images/s": batch / warm,
        "beside weights, GiB": taken,
        "TMACs": macs,
        "of the matrix peak": macs / warm / peak if macs and isinstance(peak, float) else None,
    }


def _graphs(log: Log, subject: Subject, dtype: torch.dtype) -> None:
    """A tile of the UNet, and a whole small picture, as one captured graph."""

    def work(what: str) -> Cells:
        model = subject.like(dtype)
        embeds = subject.embeds.to(dtype)
        z = torch.randn(1, model.latent_channels, 96, 96, device=model.device).to(dtype)
        lq = subject.picture(subject.scale.small, enlarged=1).to(model.device).float() / 255
        runs: dict[str, Callable[[], Tensor]] = {
            "a tile of 96 x 96 latent pixels": lambda: model.predict_noise(z, embeds),
            "a picture, from pixels to pixels": lambda: model(lq, embeds)[0],
        }
        with torch.no_grad():
            eager = runs[what]
            graph = captured(eager)
            gap = (graph().float() - eager().float()).abs().max().item()
            seconds = [log.machine.seconds(run, subject.scale.times) for run in (eager, graph)]
        return {"eager, ms": seconds[0] * 1e3, "graph, ms": seconds[1] * 1e3, "largest difference": gap}

    for what in ("a tile of 96 x 96 latent pixels", "a picture, from pixels to pixels"):
        log.row(GRAPHS, {"what": what}, partial(work, what), card_only=True)


def captured(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return what runs a work as one graph, whose result is overwritten by its next run."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # where libraries make their workspaces before
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = work()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


def _kernels(log: Log, subject: Subject, dtype: torch.dtype) -> Cells:
    """Note the kernels of a small picture that take the most time; return the time of all."""
    model: OSEDiff = subject.like(dtype)
    lq = subject.picture(subject.scale.small)
    restore(model, lq)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if log.machine.is_card else []
    with torch.profiler.profile(activities=kinds) as profile:
        restore(model, lq)
        log.machine.wait()
    times = "self_device_time_total" if log.machine.is_card else "self_cpu_time_total"
    found = {event.key: getattr(event, times) for event in profile.key_averages()}
    total = sum(found.values())
    for name in sorted(found, key=found.__getitem__, reverse=True)[:KERNELS_SHOWN]:
        cells = {"ms": found[name] / 1e3, "share": found[name] / total}
        log.row(KERNELS, {"kernel": name[:100]}, lambda cells=cells: cells)
    return {"ms": total / 1e3, "share": 1.0}

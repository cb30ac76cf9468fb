"""Whether the device's pictures are the processor's, cut or whole, and whether plans hold on it."""

from __future__ import annotations

import ast
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.card.log import Cells, Log
from benchmarks.card.subjects import MICRO, Subject
from osediff_core import OSEDiff, restore
from osediff_core.device import memory
from osediff_core.pipeline.plan import make_plan
from osediff_core.pipeline.runtime import Runtime
from osediff_core.pipeline.unet_tiles import UNetPlan, predict_in_tiles
from osediff_core.vae.exact import decode_in_pieces, encode_in_pieces

CPU = torch.device("cpu")
CASES = ("a_single_64x96_mode", "a_single_72x104_sample", "b_batch2_96x80")
FORMATS = {
    "float32": (torch.float32, False),
    "float32, TF32": (torch.float32, True),
    "float16": (torch.float16, False),
    "bfloat16": (torch.bfloat16, False),
}
"""By name: the number format, and whether the card multiplies float32 in TensorFloat-32."""
CAPS = (4, 6, 8, 12)  # GiB
GOLDEN, PICTURE = "The recorded set", "A picture on the device and on a processor"
CUT, CAPPED, PLANNED = "Cut against whole, float32", "Less memory, float16", "Planned and taken, float16"


def measure(log: Log, subject: Subject) -> None:
    """Note all tables of correctness."""
    _golden(log)
    _picture(log, subject)
    _cut(log, subject)
    _planned(log, subject)
    _capped(log, subject)


def far(found: Tensor, wanted: Tensor) -> dict[str, str | float | None]:
    """Return how far pictures in [0, 1] are apart: dB, and the largest difference in levels of 255."""
    gap = (found.float().cpu() - wanted.float().cpu()).abs()
    error = gap.square().mean().item()
    decibels = "equal" if error == 0 else -10 * torch.tensor(error).log10().item()
    return {"dB": decibels, "most, levels": gap.max().item() * 255}


def _golden(log: Log) -> None:
    """The smallest model against what the published code put out, from input to picture, untiled."""
    device = log.machine.device
    loaded: dict[str, OSEDiff] = {}

    def work(name: str, kind: str) -> Cells:
        dtype, tf32 = FORMATS[kind]
        if kind not in loaded:
            loaded[kind] = OSEDiff.from_pretrained(
                MICRO / "tiny_sd", MICRO / "osediff.pkl", dtype=dtype, device=device
            )
        file, model = MICRO / f"{name}.safetensors", loaded[kind]
        tensors, prompts = load_file(file), _prompts(file)
        lq = (tensors["lq_u8"].float() / 255).to(device)  # (B, 3, H, W)
        noise = None if "mode" in name else tensors["posterior_noise"].to(device)
        with torch.no_grad(), log.machine.tf32(tf32):
            sr, _ = model(lq, model.encode_prompt(prompts), noise)  # (B, 3, H, W)
        return far(sr, tensors["output"] / 2 + 0.5)

    for name in CASES:
        for kind in FORMATS:
            label, tf32 = {"case": name, "format": kind}, FORMATS[kind][1]
            log.row(GOLDEN, label, partial(work, name, kind), card_only=tf32)


def _prompts(file: Path) -> list[str]:
    with safe_open(file, "pt") as opened:
        said = opened.metadata()["prompt"]
    return ast.literal_eval(said) if said.startswith("[") else [said]


def _picture(log: Log, subject: Subject) -> None:
    """A picture of full size in every format, against the processor's in float32."""
    lq = subject.picture(subject.scale.small)
    wanted: list[Tensor] = []

    def processor() -> Cells:
        model = subject.like(torch.float32, CPU)
        start = time.perf_counter()
        wanted.append(restore(model, lq, color="none"))
        return {"seconds": time.perf_counter() - start}

    def device(kind: str) -> Cells:
        dtype, tf32 = FORMATS[kind]
        with log.machine.tf32(tf32):
            return far(restore(subject.like(dtype), lq, color="none"), wanted[0])

    size = "{} x {}".format(*subject.scale.small)
    log.row(PICTURE, {"output": size, "format": "float32 on the processor"}, processor)
    if wanted:
        for kind in FORMATS:
            label, tf32 = {"output": size, "format": kind}, FORMATS[kind][1]
            log.row(PICTURE, label, partial(device, kind), card_only=tf32)


def _cut(log: Log, subject: Subject) -> None:
    """The VAE in pieces, and the UNet's tiles one by one and several at once."""
    model = subject.like(torch.float32)
    width, height = subject.scale.sizes[1]
    x = subject.picture((width, height), enlarged=1).to(model.device).float() / 127.5 - 1  # (1, 3, H, W)
    z = torch.randn(1, model.latent_channels, height // model.reduction, width // model.reduction).to(x)
    whole = UNetPlan(*z.shape[-2:], side=max(4, z.shape[-1] // 2), overlap=2)

    def halves(coder: str) -> Cells:
        start = x if coder == "encode" else z
        in_pieces = encode_in_pieces if coder == "encode" else decode_in_pieces
        wanted = getattr(model.vae, coder)(start)
        found = in_pieces(model.vae, start, piece=max(32, width // 4))
        return _difference(found, wanted)

    def tiles() -> Cells:
        predict = partial(model.predict_noise, prompt_embeds=subject.embeds)
        one, several = (
            predict_in_tiles(predict, lambda _: None, replace(whole, at_once=count), z) for count in (1, 4)
        )
        return _difference(several, one)

    with torch.no_grad(), log.machine.tf32(False):
        for coder in ("encode", "decode"):
            log.row(CUT, {"what": f"{coder}, pieces"}, partial(halves, coder))
        log.row(CUT, {"what": "UNet, four tiles at once"}, tiles)


def _difference(found: Tensor, wanted: Tensor) -> Cells:
    largest = wanted.abs().max().item()
    return {"largest difference": (found - wanted).abs().max().item(), "largest value": largest}


def _planned(log: Log, subject: Subject) -> None:
    """What plans name beside what is taken."""

    def work(size: tuple[int, int]) -> Cells:
        lq, model = subject.picture(size), subject.like(torch.float16)
        restore(model, subject.picture(subject.scale.small))  # which makes the libraries ready
        planned = make_plan(model, *lq.shape[-2:], scale=4, runtime=Runtime()).device_bytes / 2**30
        _, taken = log.machine.peak(lambda: restore(model, lq))
        return {"planned, GiB": planned, "taken, GiB": taken}

    for size in subject.scale.sizes:
        log.row(PLANNED, {"output": "{} x {}".format(*size)}, partial(work, size))


class Capped(Runtime):
    """Surroundings that know of a cap, which the driver does not tell."""

    def __init__(self, gib: float) -> None:
        super().__init__()
        self._bytes = int(gib * 2**30)

    def free_memory(self, device: torch.device) -> int | None:
        """Return what is left of the cap, on the card."""
        if device.type != "cuda":
            return super().free_memory(device)
        return max(0, self._bytes - torch.cuda.memory_allocated(device))


def _capped(log: Log, subject: Subject) -> None:
    """A large picture within caps: planned for them, and planned without knowing of them."""
    size, model = subject.scale.sizes[-2], subject.like(torch.float16)
    lq = subject.picture(size)
    wanted: list[Tensor] = []

    def whole() -> Cells:
        found, taken = log.machine.peak(lambda: restore(model, lq))
        wanted.append(found)
        return {"taken, GiB": taken}

    def work(gib: float, knows: bool) -> Cells:
        with log.machine.capped(gib), _fallbacks() as said:
            runtime = Capped(gib) if knows else Runtime()
            plan = make_plan(model, *lq.shape[-2:], scale=4, runtime=runtime)
            start = time.perf_counter()
            found, taken = log.machine.peak(lambda: restore(model, lq, runtime=runtime))
            seconds = time.perf_counter() - start
        cells = {"seconds": seconds, "taken, GiB": taken, "times it ran out": float(len(said))}
        how = f"{plan.encode[0]}; {plan.denoise[0]}; {plan.decode[0]}"
        return {**cells, "plan": how, **far(found, wanted[0])}

    subject.model.to(CPU)  # which would count
    try:
        of = {"output": "{} x {}".format(*size)}
        log.row(CAPPED, {**of, "cap, GiB": "none"}, whole, card_only=True)
        for gib in CAPS:
            for knows in (True, False):
                how = "knows the cap" if knows else "does not know it"
                label = {**of, "cap, GiB": str(gib), "the plan": how}
                log.row(CAPPED, label, partial(work, gib, knows), card_only=True)
    finally:
        subject.model.to(log.machine.device)


@contextmanager
def _fallbacks() -> Iterator[list[str]]:
    """Collect what is said where memory runs out and work goes on with less."""
    said: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler = Collect(logging.WARNING)
    memory.logger.addHandler(handler)
    try:
        yield said
    finally:
        memory.logger.removeHandler(handler)

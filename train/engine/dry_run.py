"""`python -m train CONFIG.toml --plan`: what a run would train, take and need, without taking a step."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..config import TrainConfig
from ..data import build_dataset
from ..objectives.batch import Batch
from ..objectives.draws import draw
from .loop import Trainer
from .setup import start_processes
from .steps import Stepper

MIB = 2**20
PER_TRAINED = 20  # bytes of float32: value, gradient, two moments of AdamW, and a copy while it steps


class MemoryMeter(TorchDispatchMode):
    """Counts the bytes of tensors that come into being while it is entered; `peak` is the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        from torch.utils._pytree import tree_leaves

        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._seen:
                storage = tensor.untyped_storage()
                size = storage.nbytes()
                self._seen[storage] = size
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._gone, size)
        return result

    def _gone(self, size: int) -> None:
        self.live -= size


def plan(config: TrainConfig) -> str:
    """Describe the run: what is trained, steps, memory. Loads the base and finds the pictures, no more.

    Raises OSEDiffError for what would end the run before its first step.
    """
    here = dataclasses.replace(config, run=dataclasses.replace(config.run, device="cpu"))
    dataset = build_dataset(config.data, config.degradation, config.run.seed)
    trainer = Trainer(here, dataset, start_processes(here.run))
    return "\n".join([*_networks(trainer), *_steps(trainer), *_memory(trainer)])


def activation_bytes(stepper: Stepper, config: TrainConfig, side: int) -> int:
    """Return the most memory that activations take in the generator's step, the largest part of a step.

    The step runs on tensors without contents, so that it costs little time and no memory. The critic's own
    step, which comes when the generator's is over, needs less.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    without = copy.copy(stepper)  # teacher and critic of VSD keep nothing
    without.objectives = {name: made for name, made in stepper.objectives.items() if name != "vsd"}
    model, count = stepper.backbone.model, config.run.batch_size
    shape = (model.latent_channels, side // model.reduction, side // model.reduction)
    draws = draw(0, range(count), shape, config.loss, torch.device("cpu"))
    picture = torch.zeros(count, 3, side, side)
    meter = MemoryMeter()
    with FakeTensorMode(allow_non_fake_inputs=True), meter:
        _, total, _ = without.generator_loss(Batch(picture, picture, draws))
        with stepper.backbone.as_generator():
            total.backward()
    for parameter in stepper.generator_optimizer.parameters:
        parameter.grad = None
    return meter.peak


def _networks(trainer: Trainer) -> Iterator[str]:
    backbone, config = trainer.backbone, trainer.config
    groups: dict[str, list[Tensor]] = {}
    for name, tensor in backbone.generator_parameters().items():
        part = "conv_in, in full" if ".lora_" not in name else {"u": "UNet LoRA", "v": "VAE LoRA"}[name[0]]
        groups.setdefault(f"generator, {part}", []).append(tensor)
    for opponent in trainer.stepper.opponents.values():
        for name, tensor in opponent.parameters.items():
            part = "UNet LoRA" if ".lora_" in name else "own layers"
            groups.setdefault(f"{opponent.name}, {part}", []).append(tensor)
    trained = [tensor for tensors in groups.values() for tensor in tensors]
    yield f"base       {config.model.base or 'the bundled demo'}"
    if config.model.beneath:
        yield f"beneath    {config.model.beneath}, frozen"
    yield from (f"trained    {_count(tensors):>13,}  {name}" for name, tensors in groups.items() if tensors)
    yield f"           {_count(trained):>13,}  in all"
    yield f"frozen     {_count(_frozen(trainer)):>13,}  UNet and VAE, one copy, {_format(trainer)}"


def _steps(trainer: Trainer) -> Iterator[str]:
    run, share = trainer.config.run, trainer.share
    rounds = f"{run.batch_size} x {share.processes} processes x {run.accumulation} rounds"
    warmup = trainer.config.loss.critic_warmup
    if warmup:
        yield f"warm-up    {min(warmup, run.steps):>13,}  of the steps train the critic alone"
    yield f"steps      {run.steps:>13,}  of {share.global_batch} crops ({rounds})"
    yield f"crops      {run.steps * share.global_batch:>13,}  of {trainer.config.data.crop} pixels in all"
    every, kept = run.checkpoint_every, run.keep_last or "all"
    yield f"saved      every {every} steps to {Path(run.out)}, {kept} kept"


def _memory(trainer: Trainer) -> Iterator[str]:
    stepper = trainer.stepper
    updaters = [stepper.generator_optimizer, *(opponent.updater for opponent in stepper.opponents.values())]
    trained = sum(_count(updater.parameters) for updater in updaters)
    weights = sum(p.nbytes for p in _frozen(trainer))
    activations = activation_bytes(trainer.stepper, trainer.config, trainer.config.data.crop)
    rows = {
        "frozen weights": weights,
        "trained tensors, gradients, AdamW": trained * PER_TRAINED,
        f"activations, recompute {trainer.config.run.recompute}": activations,
    }
    yield from (f"memory     {size / MIB:>9,.0f} MiB  {what}" for what, size in rows.items())
    yield f"           {sum(rows.values()) / MIB:>9,.0f} MiB  for each process: estimated, without libraries,"
    yield "                          workspaces, with the processor's rules for 16 bits"


def _frozen(trainer: Trainer) -> list[Tensor]:
    model, again = trainer.backbone.model, trainer.backbone.plain_encoder
    parts = [model.unet, model.vae, *([again] if again is not None else [])]
    return [p for part in parts for p in part.parameters() if not p.requires_grad]


def _format(trainer: Trainer) -> str:
    return {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[trainer.config.run.mixed_precision]


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)

"""`python -m train CONFIG.toml --plan`: what a run would train, take and need, without taking a step."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..config import TrainConfig
from ..data import build_dataset
from ..objectives.batch import Batch
from ..objectives.draws import draw
from ..optim.optimizers import Updater
from .loop import Trainer
from .setup import start_processes
from .steps import Stepper

MIB = 2**20
FLOAT = 4  # bytes of float32, which all is that is trained
PER_TRAINED = 3 * FLOAT  # value and two moments of AdamW; gradients come and go with a step
KEPT_PICTURES = 4  # that a round leaves until the step is over: LQ, HQ, restored, and HQ in [-1, 1]


class MemoryMeter(TorchDispatchMode):
    """Counts bytes of tensors while it is entered.

    `peak`: of those that came into being, the most at once. `standing`: of the parameters that something was
    computed with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._parameters: dict[int, int] = {}

    @property
    def standing(self) -> int:
        """Bytes of parameters."""
        return sum(self._parameters.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        from torch.utils._pytree import tree_leaves

        for value in args:
            if isinstance(value, nn.Parameter):
                self._parameters[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
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


def memory(trainer: Trainer) -> dict[str, int]:
    """Return the bytes that a process needs at most on its device, by what for; libraries come on top."""
    config, stepper = trainer.config, trainer.stepper
    updaters = [stepper.generator_optimizer, *(opponent.updater for opponent in stepper.opponents.values())]
    trained = sum(_count(updater.parameters) for updater in updaters)
    averaged = _count(stepper.generator_optimizer.parameters) if trainer.ema else 0
    meter = dry_step(trainer, config, config.data.crop)
    prompts = sum(p.nbytes for network in trainer.feed.prompter.networks for p in network.parameters())
    return {
        "frozen weights": meter.standing - trained * FLOAT,
        **({"networks for prompts": prompts} if prompts else {}),
        "trained tensors, AdamW": trained * PER_TRAINED + averaged * FLOAT,
        f"activations, gradients, recompute {config.run.recompute}": meter.peak,
    }


def dry_step(trainer: Trainer, config: TrainConfig, side: int) -> MemoryMeter:
    """Go through a step of generator and opponents, and the samples, on tensors without contents.

    That costs little time and no memory. Nothing is updated. More than two rounds of a step only add what
    each leaves behind.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    run, stepper = config.run, _still(trainer.stepper)
    model, rounds = stepper.backbone.model, min(run.accumulation, 2)
    shape = (model.latent_channels, side // model.reduction, side // model.reduction)

    def batch(count: int) -> Batch:
        draws = draw(0, range(count), shape, config.loss, torch.device("cpu"))
        lq, hq = (torch.zeros(count, 3, side, side) for _ in range(2))
        return Batch(lq, hq, draws)

    meter = MemoryMeter()
    with FakeTensorMode(allow_non_fake_inputs=True), meter:
        shows = run.sample_every or run.best_by != "none"
        samples = batch(run.sample_count) if shows else None  # stands through the run
        batches = [batch(run.batch_size) for _ in range(rounds)]
        stepper.step(batches)
        meter.peak += (run.accumulation - rounds) * KEPT_PICTURES * batches[0].hq.nbytes
        if run.signals_every:
            stepper.gradient_norms(batches[0])
        del batches
        if samples is not None:
            _restore_samples(trainer, samples)
    return meter


@torch.no_grad()
def _restore_samples(trainer: Trainer, samples: Batch) -> None:
    sr, _ = trainer.backbone.generate(samples.lq, trainer.stepper.prompt_embeds, None)
    if trainer.validation.perceptual is not None:
        trainer.validation.perceptual(sr * 2 - 1, samples.hq * 2 - 1)


def _still(stepper: Stepper) -> Stepper:
    """Copy a stepper whose networks are not updated: their gradients come, and are forgotten."""

    def still(updater: Updater) -> Updater:
        def update(values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
            for parameter in updater.parameters:
                parameter.grad = None
            return dict(values), torch.zeros(())

        copied = copy.copy(updater)
        vars(copied).update(backward=Tensor.backward, update=update)
        return copied

    copied = copy.copy(stepper)
    copied.generator_optimizer = still(stepper.generator_optimizer)
    opponents = stepper.opponents.items()
    copied.opponents = {
        name: dataclasses.replace(one, updater=still(one.updater), updates=1) for name, one in opponents
    }
    return copied


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
    rows = memory(trainer)
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

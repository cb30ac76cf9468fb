"""The training loop: builds the networks, feeds the steps, and leaves checkpoints and states behind."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from osediff_core.base.load import DEMO_BASE
from osediff_core.errors import OSEDiffError
from osediff_core.model import OSEDiff
from osediff_core.weights.checkpoint import write_checkpoint

from .averages import averaging
from .config import TrainConfig, to_toml
from .data import PictureDataset, build_dataset
from .draws import stream
from .ema import RunningAverage
from .feed import Feed
from .interrupt import StopRequest
from .networks import Backbone
from .perceptual import build_perceptual
from .prompt_sources import Prompter
from .report import Report
from .setup import check_folder, embed_prompts, fingerprint, init_generator, make_folder, start_processes
from .shares import Share
from .state import (
    check_same_run,
    library_versions,
    newest_state,
    prune,
    random_state,
    read_state,
    restore_random_state,
    state_path,
    write_state,
)
from .steps import Batch, Stepper
from .validation import Validation

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

NEWEST, BEST = "osediff.safetensors", "osediff_best.safetensors"
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def train(config: TrainConfig) -> Path:
    """Train OSEDiff as configured; returns the newest checkpoint.

    Ends early, with a checkpoint, on SIGINT and SIGTERM. Raises OSEDiffError for what a person can mend.
    """
    accelerator = start_processes(config.run)
    dataset = build_dataset(config.data, config.degradation, config.run.seed)
    check_folder(config.run)
    accelerator.wait_for_everyone()  # all have seen the folder before the first writes to it
    trainer = Trainer(config, dataset, accelerator)
    if config.run.resume:
        trainer.resume()
    return trainer.run()


class Trainer:
    """One run, as one of its processes: networks, data and the step counter."""

    def __init__(self, config: TrainConfig, dataset: PictureDataset, accelerator: Accelerator) -> None:
        """Load the base onto the device and add what is trained."""
        self.config, self.accelerator = config, accelerator
        self.device: torch.device = accelerator.device
        run = config.run
        self.share = Share(
            accelerator.process_index, accelerator.num_processes, run.batch_size, run.accumulation
        )
        self.step, self.best = 0, -float("inf")
        model = OSEDiff.from_pretrained(
            config.model.base or DEMO_BASE,
            dtype="float32",
            device=self.device,
            vocabulary=config.model.vocabulary or None,
        )
        self.base = fingerprint(model)
        prompt, negative = embed_prompts(model, config)  # (1, L, D) each
        self.feed = Feed(
            config, dataset, self.share, model, Prompter(config.prompts, prompt, model, self.device)
        )
        with_critic = config.loss.lambda_vsd > 0
        again = with_critic and config.loss.vsd_space == "image"
        self.backbone = Backbone(model, config.model, stream(run.seed, "weights"), with_critic, again)
        if config.model.init_from:
            init_generator(self.backbone, config.model.init_from)
        self._choose_numbers()
        uses_perceptual = config.loss.lambda_perceptual > 0
        perceptual = build_perceptual(config.loss.perceptual, self.device) if uses_perceptual else None
        self.validation = Validation(config, self.feed, self.backbone, perceptual)
        self.stepper = Stepper(self.backbone, config, perceptual, prompt, negative, averaging(accelerator))
        decay = config.optim.ema_decay
        self.ema = RunningAverage(self.backbone.generator_parameters(), decay) if decay else None

    def _choose_numbers(self) -> None:
        """Set the networks' numerical format, memory layout and what they recompute."""
        run = self.config.run
        if run.merge_adapters:
            self.backbone.merge_adapters()
        if run.mixed_precision != "no":
            self.backbone.use_half(HALVES[run.mixed_precision])
        if run.channels_last:
            self.backbone.use_channels_last()
        self.backbone.recompute(run.recompute)

    # ---- running -----------------------------------------------------------------------------------

    def run(self) -> Path:
        """Take the steps that are left; returns the newest checkpoint."""
        if self.accelerator.is_main_process:
            make_folder(self.config)
        report = Report(self.config.run, self.step) if self.accelerator.is_main_process else None
        try:
            with StopRequest() as stop:
                for batches in self.feed.rounds(self.step):
                    self._one_step(batches, report)
                    if self._stopped(stop):
                        break
                    if (
                        self.step % self.config.run.checkpoint_every == 0
                        and self.step < self.config.run.steps
                    ):
                        self.save()
        finally:
            if report is not None:
                report.close()
        return self.save()

    def _one_step(self, batches: list[Batch], report: Report | None) -> None:
        run = self.config.run
        rate, norms = self.stepper.generator.learning_rate, {}
        if report is not None and run.signals_every and self.step % run.signals_every == 0:
            norms = self.stepper.gradient_norms(batches[0])
        try:
            values = self.stepper.step(batches) | norms
        except OSEDiffError as error:
            newest = self.save()
            raise OSEDiffError(
                f"training stopped at step {self.step + 1}: {error}. What was good is in {newest}"
            ) from error
        self.step += 1
        if self.ema is not None:
            self.ema.update()
        if report is None:
            return
        report.losses(self.step, values, rate)
        if run.sample_every and (self.step % run.sample_every == 0 or self.step in (1, run.steps)):
            with self._exported():
                lq, sr, hq = self.validation.restored()
            report.samples(self.step, lq, sr, hq)
            report.measures(self.step, self.validation.measured(sr, hq))

    def _stopped(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop: all must hear of it, or the others would wait for it."""
        asked = torch.tensor([float(stop.name is not None)], device=self.device)
        wanted = self.accelerator.reduce(asked, reduction="sum").item() > 0  # pyright: ignore[reportAttributeAccessIssue]
        if wanted and self.accelerator.is_main_process:
            log.warning("Stopped by %s after step %d.", stop.name or "another process", self.step)
        return wanted

    def _exported(self) -> AbstractContextManager[None]:
        """Give the generator the weights that checkpoints get."""
        return nullcontext() if self.ema is None else self.ema.applied()

    # ---- saving and resuming -----------------------------------------------------------------------

    def save(self) -> Path:
        """Write the generator, under the step's number and as the newest, and the full state."""
        from accelerate.utils import gather_object

        out, keep = Path(self.config.run.out), self.config.run.keep_last
        chances = gather_object([random_state(self.device)])  # of all processes
        if self.accelerator.is_main_process:
            out.mkdir(parents=True, exist_ok=True)
            with self._exported():
                checkpoint = self.backbone.checkpoint(self._metadata())
            write_checkpoint(out / f"osediff_{self.step:07d}.safetensors", checkpoint)
            write_checkpoint(out / NEWEST, checkpoint)
            if self._is_best():
                write_checkpoint(out / BEST, checkpoint)
            write_state(state_path(out, self.step), self._state(chances))
            for pattern in ("osediff_*.safetensors", "state_*.pt"):
                prune(out, pattern, keep, self.step)
        self.accelerator.wait_for_everyone()
        return out / NEWEST

    def resume(self) -> None:
        """Go on from the newest state in the folder, if any. OSEDiffError where it is another run's."""
        path = newest_state(Path(self.config.run.out))
        if path is None:
            return
        state = read_state(path)
        check_same_run(state, self.config, self.base, self.share.global_batch, path)
        self.step, self.best = state["step"], state["best"]
        self.backbone.load_generator(state["generator"])
        self.stepper.generator.restore(state["generator_updater"])
        if self.stepper.critic is not None:
            self.backbone.load_critic(state["critic"])
            self.stepper.critic.restore(state["critic_updater"])
        if self.stepper.judge is not None and self.stepper.discriminator is not None:
            self.stepper.judge.load_state_dict(state["discriminator"])
            self.stepper.discriminator.restore(state["discriminator_updater"])
        if self.ema is not None:
            self.ema.restore(state["ema"])
        if self.share.rank < len(state["random"]):
            restore_random_state(state["random"][self.share.rank], self.device)
        log.info("Going on after step %d of %s.", self.step, path)

    def _state(self, chances: list[dict[str, Any]]) -> dict[str, Any]:
        critic, judge, discriminator = self.stepper.critic, self.stepper.judge, self.stepper.discriminator
        return {
            "step": self.step,
            "best": self.best,
            "config": to_toml(self.config),
            "base": self.base,
            "global_batch": self.share.global_batch,
            "libraries": library_versions(),
            "generator": {name: p.detach() for name, p in self.backbone.generator_parameters().items()},
            "critic": {name: p.detach() for name, p in self.backbone.critic_parameters().items()},
            "generator_updater": self.stepper.generator.state(),
            "critic_updater": None if critic is None else critic.state(),
            "discriminator": None if judge is None else judge.state_dict(),
            "discriminator_updater": None if discriminator is None else discriminator.state(),
            "ema": None if self.ema is None else self.ema.state(),
            "random": chances,
        }

    def _is_best(self) -> bool:
        """Measure the sample pictures, where that is asked for, and remember the best value."""
        name = self.config.run.best_by
        if name == "none":
            return False
        with self._exported():
            _, sr, hq = self.validation.restored()
        value = self.validation.measured(sr, hq)[name]
        if value <= self.best:
            return False
        self.best = value
        return True

    def _metadata(self) -> dict[str, str]:
        return {
            "base": self.config.model.base or "the bundled demo base",
            "steps": str(self.step),
            "date": datetime.now(timezone.utc).date().isoformat(),
            "licence": self.config.model.licence,
            "config": to_toml(self.config),
        }

"""The training loop: builds the networks, feeds the steps, and leaves checkpoints and states behind."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from osediff_core.base.load import DEMO_BASE
from osediff_core.errors import OSEDiffError
from osediff_core.model import OSEDiff
from osediff_core.weights.checkpoint import write_checkpoint

from ..config import TrainConfig
from ..data import PictureDataset, build_dataset
from ..networks.backbone import Backbone, check_start
from ..objectives.perceptual import build_perceptual
from ..objectives.registry import sees_pictures, uses_critic, uses_hq_latents
from ..optim.averages import averaging
from ..optim.ema import RunningAverage
from ..programs.tables import to_toml
from ..prompts.prompter import Prompter
from ..randomness.streams import stream
from ..watch.pace import Pace, peak_memory
from ..watch.report import TrainingLog
from .agreement import check_agreement, from_first, together
from .critic_file import load_critic, open_critic, write_critic
from .feed import Feed
from .interrupt import StopRequest
from .same_run import check_same_run, library_versions, shared_settings, write_pictures
from .setup import (
    check_folder,
    embed_prompts,
    fingerprint,
    init_generator,
    make_folder,
    read_start,
    start_processes,
)
from .shares import Share
from .state import (
    checksum,
    newest_state,
    prune,
    random_state,
    read_newest_state,
    restore_random_state,
    state_path,
    write_state,
)
from .steps import Batch, Stepper
from .validation import Validation, build_metrics

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

NEWEST, BEST = "osediff.safetensors", "osediff_best.safetensors"
FULL = (errno.ENOSPC, errno.EDQUOT)
SHOWN = 12  # digits of a checksum that people are shown
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def train(config: TrainConfig) -> Path:
    """Train OSEDiff as configured; returns the newest checkpoint.

    Ends early, with a checkpoint, on SIGINT and SIGTERM. Raises OSEDiffError for what a person can mend.
    """
    accelerator = start_processes(config.run)
    trainer = together(accelerator, lambda: _prepared(config, accelerator))
    trainer.resume()
    return trainer.run()


def _prepared(config: TrainConfig, accelerator: Accelerator) -> Trainer:
    """Find the pictures, look at the folder, which nobody has written to yet, and load the networks."""
    dataset = build_dataset(config.data, config.degradation, config.run.seed)
    check_folder(config.run)
    return Trainer(config, dataset, accelerator)


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
        self.pace = Pace()
        metrics = build_metrics(run.metrics, self.device)
        critic = open_critic(config.model) if config.model.critic_from else None
        beneath = read_start(config.model.beneath) if config.model.beneath else None
        start = read_start(config.model.init_from) if config.model.init_from else None
        self.beneath = (
            ""
            if beneath is None
            else checksum([beneath.unet, beneath.vae, beneath.scale_unet, beneath.scale_vae])
        )
        model = OSEDiff.from_pretrained(
            config.model.base or DEMO_BASE,
            dtype="float32",
            device=self.device,
            vocabulary=config.model.vocabulary or None,
        )
        if start is not None:
            check_start("model.init_from", start, model)
        self.base = fingerprint(model)
        prompt, negative = embed_prompts(model, config)  # (1, L, D) each
        self.feed = Feed(
            config, dataset, self.share, model, Prompter(config.prompts, prompt, model, self.device)
        )
        plain = sees_pictures(config.loss) or uses_hq_latents(config.loss)
        weights = stream(run.seed, "weights")
        self.backbone = Backbone(model, config.model, weights, uses_critic(config.loss), plain, beneath)
        if start is not None:
            init_generator(self.backbone, start)
        if critic is not None:
            load_critic(critic, self.backbone, self.base)
        self._choose_numbers()
        uses_perceptual = config.loss.lambda_perceptual > 0
        perceptual = build_perceptual(config.loss.perceptual, self.device) if uses_perceptual else None
        self.validation = Validation(config, self.feed, self.backbone, perceptual, metrics)
        self.pictures = {"training pictures": dataset.listing()}
        if config.data.validation:
            self.pictures["validation pictures"] = self.validation.dataset.listing()
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
        """Take the steps that are left; returns the newest checkpoint.

        Raises OSEDiffError in all processes where they would not take the same steps, or one cannot write.
        """
        check_agreement(self.accelerator, self._common())
        report = together(self.accelerator, self._open)
        self.pace = Pace()  # what was loaded before does not count
        try:
            with closing(report) if report else nullcontext(), StopRequest() as stop:
                for batches in self.pace.each(self.feed.rounds(self.step)):
                    self._one_step(batches, report)
                    if self._stopped(stop):
                        break
                    if (
                        self.step % self.config.run.checkpoint_every == 0
                        and self.step < self.config.run.steps
                    ):
                        self.save()
        except OSError as error:  # of a log, whose library writes as it likes
            if error.errno not in FULL:
                raise
            raise OSEDiffError(
                f"training stopped after step {self.step}, the log could not be written: {error.strerror}; "
                f"make room. {self._what_stands()}"
            ) from error
        return self.save()

    def _common(self) -> dict[str, object]:
        """Return what the processes must have in common before the first step."""
        return {
            **shared_settings(self.config),
            "the step": self.step,
            "the base": self.base[:SHOWN],
            "what lies beneath": self.beneath[:SHOWN],
            **{
                f"the {name}": f"{len(entries)}, checksum {checksum(entries)[:SHOWN]}"
                for name, entries in self.pictures.items()
            },
            "what is trained": f"checksum {checksum(self._trained())[:SHOWN]}",
        }

    def _open(self) -> TrainingLog | None:
        """Make the folder and the log, in the process that writes."""
        if not self.accelerator.is_main_process:
            return None
        make_folder(self.config)
        return TrainingLog(self.config, self.step)

    def _one_step(self, batches: list[Batch], report: TrainingLog | None) -> None:
        run = self.config.run
        warming = self.step < self.config.loss.critic_warmup
        rate, norms = 0.0 if warming else self.stepper.generator_optimizer.learning_rate, {}
        if report is not None and run.signals_every and self.step % run.signals_every == 0:
            norms = self.stepper.gradient_norms(batches[0])
        try:
            with self.pace.spent("step"):
                values = self.stepper.step(batches, warming) | norms
        except OSEDiffError as error:
            newest = self.save()
            raise OSEDiffError(
                f"training stopped at step {self.step + 1}: {error}. What was good is in {newest}"
            ) from error
        self.step += 1
        self.pace.seen(self.share.global_batch)
        if self.ema is not None and not warming:
            self.ema.update()
        if report is None:
            return
        report.losses(self.step, values, rate)
        if self.step % run.log_every == 0:
            report.pace(self.step, self.pace.numbers() | peak_memory(self.device))
        if run.sample_every and (self.step % run.sample_every == 0 or self.step in (1, run.steps)):
            with self._exported():
                lq, sr, hq = self.validation.restored()
            report.samples(self.step, lq, sr, hq)
            measures = self.validation.measured(lq, sr, hq)
            if self.ema is not None and not warming:
                measures["step to average"] = self.validation.agreement(sr)
            report.measures(self.step, measures)

    def _stopped(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop: all must hear of it, or the others would wait for it."""
        wanted = stop.name is not None
        if self.accelerator.num_processes > 1:
            asked = torch.tensor([float(wanted)], device=self.device)
            wanted = self.accelerator.reduce(asked, reduction="sum").item() > 0  # pyright: ignore[reportAttributeAccessIssue]
        if wanted and self.accelerator.is_main_process:
            log.warning("Stopped by %s after step %d.", stop.name or "another process", self.step)
        return wanted

    def _exported(self) -> AbstractContextManager[None]:
        """Give the generator the weights that checkpoints get."""
        return nullcontext() if self.ema is None else self.ema.applied()

    # ---- saving and resuming -----------------------------------------------------------------------

    def save(self) -> Path:
        """Write the generator, under the step's number and as the newest, and the full state.

        Raises OSEDiffError in all processes where that cannot be done; what was there before stands.
        """
        from accelerate.utils import gather_object

        chances = gather_object([random_state(self.device)])  # of all processes
        together(self.accelerator, lambda: self._write(chances))
        return Path(self.config.run.out) / NEWEST

    def _write(self, chances: list[dict[str, Any]]) -> None:
        if not self.accelerator.is_main_process:
            return
        out, keep = Path(self.config.run.out), self.config.run.keep_last
        try:
            out.mkdir(parents=True, exist_ok=True)
            with self._exported():
                checkpoint = self.backbone.checkpoint(self._metadata())
            for name in (
                f"osediff_{self.step:07d}.safetensors",
                NEWEST,
                *([BEST] if self._is_best() else []),
            ):
                write_checkpoint(out / name, checkpoint)
                if self.config.run.keep_critic:
                    write_critic(
                        out / name.replace("osediff", "critic"), self.backbone, self.base, checkpoint.metadata
                    )
            write_state(state_path(out, self.step), self._state(chances))
            for pattern in ("osediff_*.safetensors", "critic_*.safetensors", "state_*.pt"):
                prune(out, pattern, keep, self.step)
        except (OSEDiffError, OSError) as error:
            raise OSEDiffError(f"step {self.step} is not saved: {error}. {self._what_stands()}") from error

    def _what_stands(self) -> str:
        """Say what can be gone on from, and how much room the next try takes."""
        newest = newest_state(Path(self.config.run.out))
        if newest is None:
            return "There is no state to go on from yet"
        room = newest.stat().st_size / 2**20
        return (
            f"{newest} stands: go on from it with run.resume = true; a state takes {room:.1f} MiB, and "
            "run.keep_last says how many are kept"
        )

    def resume(self) -> None:
        """Go on from the newest whole state in the folder, if that is wanted and there is one.

        The first process reads it for all. Raises OSEDiffError in all where it is another run's.
        """
        wanted, out = self.config.run.resume, Path(self.config.run.out)
        found = from_first(self.accelerator, lambda: read_newest_state(out) if wanted else None)
        if found is not None:
            together(self.accelerator, lambda: self._take_up(*found))

    def _take_up(self, path: Path, state: Mapping[str, Any]) -> None:
        batch = self.share.global_batch
        check_same_run(state, self.config, self.base, self.beneath, self.pictures, batch, path)
        self.step, self.best = state["step"], state["best"]
        self.backbone.load_generator(state["generator"])
        self.stepper.generator_optimizer.restore(state["generator_updater"])
        for opponent in self.stepper.opponents.values():
            opponent.restore(state)
        if self.ema is not None:
            self.ema.restore(state["ema"])
        if self.share.rank < len(state["random"]):
            restore_random_state(state["random"][self.share.rank], self.device)
        log.info("Going on after step %d of %s.", self.step, path)

    def _state(self, chances: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "step": self.step,
            "best": self.best,
            "config": to_toml(self.config),
            "base": self.base,
            "beneath": self.beneath,
            "pictures": write_pictures(self.pictures),
            "global_batch": self.share.global_batch,
            "libraries": library_versions(),
            **self._trained(),
            "random": chances,
        }

    def _trained(self) -> dict[str, Any]:
        """Return what the steps change, equal in all processes."""
        states = [opponent.state() for opponent in self.stepper.opponents.values()]
        return {
            "generator": {name: p.detach() for name, p in self.backbone.generator_parameters().items()},
            **{name: value for state in states for name, value in state.items()},
            "generator_updater": self.stepper.generator_optimizer.state(),
            "ema": None if self.ema is None else self.ema.state(),
        }

    def _is_best(self) -> bool:
        """Measure the sample pictures, where that is asked for, and remember the best value."""
        if self.config.run.best_by == "none":
            return False
        with self._exported():
            samples = self.validation.restored()
        value = self.validation.worth(*samples)
        if not value > self.best:  # a value that is no number is not the best either
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

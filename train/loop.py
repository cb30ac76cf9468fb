"""The training loop: builds the networks, feeds the steps, and leaves checkpoints behind."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from osediff_core.base import DEMO_BASE
from osediff_core.checkpoint import write_checkpoint
from osediff_core.errors import OSEDiffError
from osediff_core.model import OSEDiff

from .config import RunConfig, TrainConfig, to_toml
from .data import PictureDataset, build_dataset, step_indices
from .draws import Draws, draw, stream
from .interrupt import StopRequest, leave_signals_to_parent
from .networks import Backbone
from .perceptual import build_perceptual
from .report import Report
from .steps import Stepper

log = logging.getLogger(__name__)

NEWEST = "osediff.safetensors"
CONFIG = "config.toml"


def train(config: TrainConfig) -> Path:
    """Train OSEDiff as configured; returns the newest checkpoint.

    Ends early, with a checkpoint, on SIGINT and SIGTERM. Raises OSEDiffError for what a person can mend.
    """
    device = _device(config.run)
    dataset = build_dataset(config.data, config.degradation, config.run.seed)
    _check_folder(config.run)
    return Trainer(config, dataset, device).run()


class Trainer:
    """One run: networks, data and the step counter."""

    def __init__(self, config: TrainConfig, dataset: PictureDataset, device: torch.device) -> None:
        """Load the base onto the device and add what is trained."""
        self.config, self.dataset, self.device = config, dataset, device
        self.step = 0
        uses_critic = config.loss.lambda_vsd > 0
        model = OSEDiff.from_pretrained(config.model.base or DEMO_BASE, dtype="float32", device=device)
        prompt, negative = _embed_prompts(model, config)  # (1, L, D) each
        self.backbone = Backbone(model, config.model, stream(config.run.seed, "weights"), uses_critic)
        if config.run.mixed_precision == "bf16":
            self.backbone.use_bf16()
        if config.run.channels_last:
            self.backbone.use_channels_last()
        uses_perceptual = config.loss.lambda_perceptual > 0
        perceptual = build_perceptual(config.loss.perceptual, device) if uses_perceptual else None
        self.stepper = Stepper(self.backbone, config, perceptual, prompt, negative)

    def run(self) -> Path:
        """Take the steps that are left; returns the newest checkpoint."""
        _write_config(self.config)
        report = Report(self.config.run, self.step)
        try:
            with StopRequest() as stop:
                for batch in self._loader():
                    self._one_step(batch, report)
                    if stop.name:
                        log.warning("Stopped by %s after step %d.", stop.name, self.step)
                        break
                    if self.step % self.config.run.checkpoint_every == 0:
                        self.save()
        finally:
            report.close()
        return self.save()

    def save(self) -> Path:
        """Write the generator, once under the step's number and once as the newest."""
        out = Path(self.config.run.out)
        checkpoint = self.backbone.checkpoint(self._metadata())
        write_checkpoint(out / f"osediff_{self.step:07d}.safetensors", checkpoint)
        write_checkpoint(out / NEWEST, checkpoint)
        return out / NEWEST

    def _one_step(self, batch: dict[str, Tensor], report: Report) -> None:
        run = self.config.run
        self.step += 1
        lq, hq = batch["lq"].to(self.device), batch["hq"].to(self.device)  # (B, 3, H, W) each
        rate = self.stepper.generator.learning_rate
        try:
            values = self.stepper.step(lq, hq, self._draws(lq))
        except OSEDiffError as error:
            raise OSEDiffError(f"training stopped at step {self.step}: {error}") from error
        report.losses(self.step, values, rate)
        if run.sample_every and (self.step % run.sample_every == 0 or self.step in (1, run.steps)):
            self._show_samples(report)

    def _draws(self, lq: Tensor) -> Draws:
        model = self.backbone.model
        side = [n // model.reduction for n in lq.shape[-2:]]
        shape = (len(lq), model.latent_channels, *side)
        return draw(self.config.run.seed, self.step, shape, self.config.loss, self.device)

    @torch.no_grad()
    def _show_samples(self, report: Report) -> None:
        """Restore the first samples of the run, the same ones every time."""
        items = [self.dataset[index] for index in range(self.config.run.sample_count)]
        lq = torch.stack([item["lq"] for item in items]).to(self.device)  # (N, 3, H, W)
        hq = torch.stack([item["hq"] for item in items])  # (N, 3, H, W)
        sr, _ = self.backbone.generate(lq, self.stepper.prompt_embeds, None)  # (N, 3, H, W)
        report.samples(self.step, lq, sr, hq)

    def _loader(self) -> DataLoader:
        run = self.config.run
        return DataLoader(
            self.dataset,
            batch_size=run.batch_size,
            # Samples are counted through the whole run, so that every epoch draws crops of its own.
            sampler=step_indices(self.step, run.steps, run.batch_size),
            num_workers=run.workers,
            worker_init_fn=leave_signals_to_parent,
            pin_memory=self.device.type == "cuda",
        )

    def _metadata(self) -> dict[str, str]:
        return {
            "base": self.config.model.base or "the bundled demo base",
            "steps": str(self.step),
            "licence": self.config.model.licence,
            "config": to_toml(self.config),
        }


@torch.no_grad()
def _embed_prompts(model: OSEDiff, config: TrainConfig) -> list[Tensor]:
    """Encode prompt and negative prompt, (1, L, D) each, and move the text encoder out of the way."""
    embeds = [model.encode_prompt([text]) for text in (config.model.prompt, config.model.negative_prompt)]
    model.text_encoder.to("cpu")
    return embeds


def _device(run: RunConfig) -> torch.device:
    """Ask accelerate where this process computes."""
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise OSEDiffError(
            "training needs the packages of the train extra: pip install accelerate peft tensorboard tyro"
        ) from error
    accelerator = Accelerator(cpu=run.device == "cpu")
    if accelerator.num_processes > 1:
        raise OSEDiffError("training runs in one process so far: start it with plain python")
    return accelerator.device


def _check_folder(run: RunConfig) -> None:
    """Refuse the folder of another run, before anything large is loaded."""
    if (Path(run.out) / CONFIG).exists() and not run.overwrite:
        raise OSEDiffError(
            f"{run.out} holds another run: choose a new folder with run.out, or set `run.overwrite = true`"
        )


def _write_config(config: TrainConfig) -> None:
    """Make the run's folder and write the resolved configuration there."""
    out = Path(config.run.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG).write_text(to_toml(config), encoding="utf-8")
    except OSError as error:
        raise OSEDiffError(f"cannot write to the folder {out}: {error.strerror or error}") from error

"""The training configuration: plain dataclasses, read from TOML, changed from the command line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal

from osediff_core.errors import OSEDiffError

from .data import DataConfig
from .degradation import DegradationConfig
from .evaluation.metric_table import read_metrics
from .networks.config import PUBLISHED_NEGATIVE_PROMPT as PUBLISHED_NEGATIVE_PROMPT
from .networks.config import ModelConfig
from .networks.recompute import Recompute
from .objectives.registry import OBJECTIVES, LossConfig, uses_critic
from .optim.config import OptimConfig
from .programs.tables import from_table as from_table
from .programs.tables import parse_toml as parse_toml
from .programs.tables import read_config as read_config
from .programs.tables import to_toml as to_toml
from .prompts.prompter import PromptConfig

VAE_REDUCTION = 8
"""What Stable Diffusion's VAE divides sides by, so that crops are a multiple of it."""

ABOVE_0 = (
    "model.lora_alpha", "optim.learning_rate", "optim.epsilon", "optim.max_grad_norm",
)  # fmt: skip
AT_LEAST_0 = (
    *(f"loss.lambda_{name}" for name in OBJECTIVES), "loss.critic_gan", "loss.critic_warmup",
    "optim.output_lr_scale", "optim.weight_decay", "optim.warmup_steps", "optim.decay_steps",
    "optim.max_skipped", "optim.skip_above", "run.workers", "run.sample_every", "run.keep_last",
    "run.signals_every",
)  # fmt: skip
MEASURES = ("psnr", "ssim", "perceptual")
"""Of the sample pictures, that every run has."""
AT_LEAST_1 = (
    "model.rank_unet", "model.rank_vae", "loss.critic_updates", "run.steps", "run.batch_size",
    "run.accumulation", "run.log_every", "run.checkpoint_every", "run.sample_count",
)  # fmt: skip
SHARES = ("optim.beta1", "optim.beta2", "optim.ema_decay")
MAY_BE_INFINITE = ("optim.max_grad_norm",)


@dataclasses.dataclass
class RunConfig:
    """One run: how long, where to, how often it reports."""

    out: str = "runs/osediff"
    """Folder that gets checkpoints, samples, logs and the resolved configuration."""
    overwrite: bool = False
    """Write into `out` although another run has written there."""
    steps: int = 100_000
    """Optimizer steps of the generator."""
    batch_size: int = 4
    """Pictures per process and round; a step sees batch_size x processes x accumulation of them."""
    accumulation: int = 1
    """Rounds whose gradients are added up before a step."""
    seed: int = 123
    """Seed of weights, noise, timesteps, order of the pictures and their degradation."""
    workers: int = 4
    """Processes that load and degrade pictures; 0 does it in the training process."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Format of frozen weights and activations; adapters, the UNet's output and x0 are always float32."""
    recompute: Recompute = "decoder"
    """Activations that are computed again in the backward pass to save memory: "decoder" (of the VAE, where
    most of it goes), "all" or "none"; the results are the same."""
    merge_adapters: bool = False
    """Merge the adapters into their layers in every pass, instead of computing both: the same function, and
    faster where a base is narrow and the rank high."""
    channels_last: bool = False
    """Memory layout (B, H, W, C) for convolutions: faster with bf16 on many processors."""
    device: Literal["auto", "cpu"] = "auto"
    """"auto" takes an accelerator where there is one."""
    log_every: int = 10
    """Steps between two entries in TensorBoard."""
    sample_every: int = 500
    """Steps between two sample pictures LQ | SR | HQ; 0 for none."""
    sample_count: int = 4
    """Training pictures shown in each sample picture."""
    checkpoint_every: int = 500
    """Steps between two checkpoints with the full state; the last step always writes both."""
    keep_last: int = 5
    """Checkpoints and states that are kept, the newest; 0 keeps all."""
    keep_critic: bool = False
    """Write the critic beside each checkpoint, critic.safetensors beside osediff.safetensors, for
    `model.critic_from` of a later run."""
    metrics: tuple[str, ...] = ()
    """Further measures of the sample pictures, by their names in train/evaluation/metrics.toml, such as
    "clipiqa" or "drift"."""
    best_by: str = "none"
    """Keep the checkpoint that restores the sample pictures best by this measure as osediff_best: "psnr",
    "ssim", "perceptual", which is the perceptual term of the loss, or one of `metrics`; "none" keeps none."""
    resume: bool | Literal["changed"] = False
    """Go on from the newest state in `out`; begin at the beginning where there is none. "changed": go on with
    another learning rate, schedule, weight decay or clipping than the state's."""
    signals_every: int = 0
    """Steps between two measurements of each loss's own gradient norm, which cost a step each; 0: none."""
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Where numbers and pictures go besides the progress bar; "wandb" needs that package and its account."""


@dataclasses.dataclass
class TrainConfig:
    """Train OSEDiff: one file, seven sections, every value changeable as --section.key VALUE."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    degradation: DegradationConfig = dataclasses.field(default_factory=DegradationConfig)
    prompts: PromptConfig = dataclasses.field(default_factory=PromptConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        """Refuse values that contradict each other or can only be slips, by their keys."""
        values = list(_numbers(self))
        for key, value in values:
            finite = math.isfinite(value) or (key in MAY_BE_INFINITE and value == math.inf)
            _require(finite, f"{key} must be a finite number, got {value}")
        for key, value in values:
            _require(value > 0 or key not in ABOVE_0, f"{key} must be above 0, got {value}")
            _require(value >= 0 or key not in AT_LEAST_0, f"{key} must be 0 or more, got {value}")
            _require(value >= 1 or key not in AT_LEAST_1, f"{key} must be at least 1, got {value}")
            share = 0 <= value < 1 or key not in SHARES
            _require(share, f"{key} must be at least 0 and below 1, got {value}")
        crop = self.data.crop
        _require(crop % VAE_REDUCTION == 0, f"data.crop must be a multiple of {VAE_REDUCTION}, got {crop}")
        self._check_measures()
        self._check_loss()
        self._check_critic()
        self._check_beneath()

    def _check_measures(self) -> None:
        run, known = self.run, {name for name, row in read_metrics().items() if row.of != "set"}
        unknown = [name for name in run.metrics if name not in known]
        sentence = f"run.metrics expects names among {', '.join(sorted(known))}, got {', '.join(unknown)}"
        _require(not unknown, sentence)
        choice = ("none", *MEASURES, *run.metrics)
        sentence = (
            f"run.best_by expects one of {', '.join(choice)}, got {run.best_by}; run.metrics adds others"
        )
        _require(run.best_by in choice, sentence)

    def _check_loss(self) -> None:
        loss = self.loss
        none = loss.perceptual == "none" or not loss.lambda_perceptual
        sentence = 'run.best_by = "perceptual" needs loss.perceptual and loss.lambda_perceptual'
        _require(not (self.run.best_by == "perceptual" and none), sentence)
        for kind in ("vsd", "critic"):
            first, last = getattr(loss, f"{kind}_first_step"), getattr(loss, f"{kind}_last_step")
            names = f"loss.{kind}_first_step and loss.{kind}_last_step"
            fits = 0 <= first < last <= 1000
            _require(fits, f"{names} must satisfy 0 <= first < last <= 1000, got {first} and {last}")
        same = self.prompts.source == "fixed" and self.model.prompt == self.model.negative_prompt
        sentence = "loss.lambda_csd needs model.prompt and model.negative_prompt to differ, or prompts.source"
        _require(not (loss.lambda_csd and same), sentence)

    def _check_critic(self) -> None:
        asked = {
            "model.critic_from": self.model.critic_from,
            "loss.critic_warmup": self.loss.critic_warmup,
            "run.keep_critic": self.run.keep_critic,
        }
        for key, value in asked.items():
            _require(
                not value or uses_critic(self.loss),
                f"{key} = {value!r} needs a critic, and nothing here trains one: set loss.lambda_vsd or "
                f"loss.lambda_diffusion_gan above 0, or leave {key} out",
            )

    def _check_beneath(self) -> None:
        model = self.model
        sentence = (
            "model.beneath needs model.train_conv_in = false: it stays as it is, and with it its conv_in"
        )
        _require(not (model.beneath and model.train_conv_in), sentence)
        sentence = (
            "model.beneath and model.init_from cannot go together, for what is trained on top begins as "
            "nothing: leave out one of them"
        )
        _require(not (model.beneath and model.init_from), sentence)


def _numbers(section: Any, where: str = "") -> Iterator[tuple[str, float]]:  # noqa: ANN401
    """Give every number of a configuration with its key; those of a list have its key each."""
    for field in dataclasses.fields(section):
        key, value = where + field.name, getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{key}.")
        else:
            several = value if isinstance(value, tuple | list) else (value,)
            yield from ((key, one) for one in several if isinstance(one, int | float))


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise OSEDiffError(sentence)

"""The pictures that are shown and measured while a run goes on: always the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from statistics import fmean

import torch
from torch import Tensor
from torch.utils.data import default_collate

from osediff_core.color import to_levels
from osediff_core.errors import OSEDiffError

from ..config import TrainConfig
from ..data import build_validation
from ..evaluation.fidelity import psnr_y, ssim_y
from ..evaluation.measures import Measure, build_measure, value_of
from ..evaluation.metric_table import choose_metrics, read_metrics, why_missing
from ..networks.backbone import Backbone
from ..objectives.batch import Batch
from ..objectives.objective import PerceptualLoss
from .feed import Feed

FIDELITY = {"psnr": psnr_y, "ssim": ssim_y}


def build_metrics(names: Sequence[str], device: torch.device) -> dict[str, Measure]:
    """Build the measures of `run.metrics`. Raises OSEDiffError where a library or its weights are missing."""
    built = {}
    for name, metric in choose_metrics(names).items() if names else ():
        reason = why_missing(metric)
        if reason is not None:
            raise OSEDiffError(f"{name} of run.metrics {reason}; or leave it out")
        built[name] = build_measure(name, device)
    return built


class Validation:
    """Restores the first samples of the validation pictures; without any, of the training pictures."""

    def __init__(
        self,
        config: TrainConfig,
        feed: Feed,
        backbone: Backbone,
        perceptual: PerceptualLoss | None,
        metrics: Mapping[str, Measure],
    ) -> None:
        """Find the pictures. Raises OSEDiffError where they are missing."""
        self.config, self.feed, self.backbone, self.perceptual = config, feed, backbone, perceptual
        self.metrics = metrics
        if config.run.workers and not config.data.validation:
            self.dataset = feed.dataset  # the workers have copies, so that here nobody else reads
        else:
            self.dataset = build_validation(config.data, config.degradation, config.run.seed)

    @cached_property
    def batch(self) -> Batch:
        """The samples, read and degraded once."""
        samples = [self.dataset[index] for index in range(self.config.run.sample_count)]
        return self.feed.batch(default_collate(samples))

    @torch.no_grad()
    def restored(self) -> tuple[Tensor, Tensor, Tensor]:
        """Restore the samples with the generator as it is: lq, sr, hq, (N, 3, H, W) in [0, 1] each."""
        batch = self.batch
        assert batch.prompt_embeds is not None  # `feed.batch` embeds the prompts
        sr, _ = self.backbone.generate(batch.lq, batch.prompt_embeds, None)  # (N, 3, H, W)
        return batch.lq, sr, batch.hq

    def measured(self, lq: Tensor, sr: Tensor, hq: Tensor) -> dict[str, float]:
        """Measure restored samples, (N, 3, H, W) in [0, 1] each, by all that the run measures them by."""
        perceptual = [] if self.perceptual is None else [self.config.loss.perceptual]
        names = dict.fromkeys([*FIDELITY, *perceptual, *self.metrics])
        return {name: self._measure(name, lq, sr, hq) for name in names}

    @torch.no_grad()
    def _measure(self, name: str, lq: Tensor, sr: Tensor, hq: Tensor) -> float:
        """Return the mean over the samples of one measure."""
        if name in FIDELITY:
            return FIDELITY[name](sr.cpu(), hq.cpu()).mean().item()
        if self.perceptual is not None and name == self.config.loss.perceptual:
            return self.perceptual(sr * 2 - 1, hq * 2 - 1).mean().item()
        samples = enumerate(zip(*(to_levels(images.cpu()).split(1) for images in (sr, hq, lq)), strict=True))
        return fmean(value_of(name, self.metrics[name], f"sample {n}", *three) for n, three in samples)

    def worth(self, lq: Tensor, sr: Tensor, hq: Tensor) -> float:
        """Measure restored samples as `run.best_by` asks, and by nothing else: more is better."""
        name = self.config.run.best_by
        if name == "perceptual":
            return -self._measure(self.config.loss.perceptual, lq, sr, hq)
        value = self._measure(name, lq, sr, hq)
        return value if read_metrics()[name].better == "higher" else -value

    def agreement(self, sr: Tensor) -> float:
        """Measure how near the generator as it is comes to sr, what another restored: PSNR of Y, dB."""
        return psnr_y(self.restored()[1].cpu(), sr.cpu()).mean().item()

"""What the steps see: the batches of a run, on the training device, with their noise and prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from osediff_core.device.memory import upload
from osediff_core.model import OSEDiff

from ..config import TrainConfig
from ..data import PictureDataset, degrade_batch
from ..objectives.batch import Batch
from ..objectives.draws import draw
from ..prompts.prompter import Prompter
from .interrupt import leave_signals_to_parent
from .shares import Share


class Feed:
    """Makes the batches of one process out of samples of the data set."""

    def __init__(
        self, config: TrainConfig, dataset: PictureDataset, share: Share, model: OSEDiff, prompter: Prompter
    ) -> None:
        """Draw noise for the latents of `model`, and take the device of its networks."""
        self.config, self.dataset, self.share, self.prompter = config, dataset, share, prompter
        self.model, self.device = model, model.device

    def rounds(self, first_step: int) -> Iterator[list[Batch]]:
        """Give the batches of each step from `first_step` on, `accumulation` of them."""
        run = self.config.run
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.share.batches(first_step, run.steps),
            num_workers=run.workers,
            worker_init_fn=leave_signals_to_parent,
            pin_memory=self.device.type == "cuda",
        )
        batches = []
        for sample in loader:
            batches.append(self.batch(sample))
            if len(batches) == run.accumulation:
                yield batches
                batches = []

    def batch(self, sample: dict[str, Any]) -> Batch:
        """Move what the loader put together to the device, and degrade it there where that is wanted."""
        config, model = self.config, self.model
        hq, lq = (upload(sample[name], self.device) for name in ("hq", "lq"))  # (B, 3, H, W) each
        lq = degrade_batch(hq, lq, sample["index"], sample["remarks"], config.degradation, config.run.seed)
        shape = (model.latent_channels, *(n // model.reduction for n in lq.shape[-2:]))
        draws = draw(config.run.seed, sample["index"].tolist(), shape, config.loss, self.device)
        embeds = self.prompter.embeds(lq, hq, sample["name"])
        return Batch(lq, hq, draws, embeds, sample["remarks"])

"""One training step: Algorithm 1 of the paper, lines 6 to 16, and what can take the place of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from osediff_core.device.memory import upload

from ..config import TrainConfig
from ..data import REMARKS
from ..networks.backbone import Backbone
from ..objectives.batch import Batch, Restored
from ..objectives.objective import Context, PerceptualLoss
from ..objectives.registry import build_objectives, sees_pictures, uses_hq_latents
from ..optim.averages import Average, mean_of, single_process
from ..optim.optimizers import Updater


class Stepper:
    """Updates the generator, then its opponents, from one or more batches; all randomness is an argument."""

    def __init__(
        self,
        backbone: Backbone,
        config: TrainConfig,
        perceptual: PerceptualLoss | None,
        prompt_embeds: Tensor,
        negative_embeds: Tensor,
        average: Average = single_process,
    ) -> None:
        """Train `backbone`; embeddings are (1, L, D), for every picture, or (B, L, D)."""
        self.backbone, self.loss, self.prompt_embeds = backbone, config.loss, prompt_embeds
        self.sample_posterior = config.model.posterior == "sample"
        alphas_cumprod = backbone.model.alphas_cumprod.to(prompt_embeds.device)  # (T,)
        half = config.run.mixed_precision == "fp16"
        updater = partial(Updater, config=config.optim, average=average, half=half)
        scale = config.optim.output_lr_scale
        self.generator_optimizer = updater(backbone.generator_parameters(), output_lr_scale=scale)
        context = Context(backbone, perceptual, negative_embeds, alphas_cumprod, config.run.seed, updater)
        self.objectives, self.opponents = build_objectives(config.loss, context), context.opponents

    def step(self, batches: Sequence[Batch], warming: bool = False) -> dict[str, Tensor]:
        """Take one step on the mean of the losses of one or more batches of one size.

        warming: only the critic learns, and the generator with its optimizer stays as it is.
        Returns detached scalars by name, means over batches and processes. Raises OSEDiffError when the
        losses or gradients of too many steps were not finite; such a step does not reach the weights.
        """
        restored, values = self._only_restored(batches) if warming else self._generator_step(batches)
        for name, opponent in self.opponents.items():
            if name == "critic" or not warming:
                values |= opponent.step(restored)
        updaters = [self.generator_optimizer, *(opponent.updater for opponent in self.opponents.values())]
        skipped = sum(updater.guard.total for updater in updaters)
        return values | {"skipped": torch.tensor(float(skipped))}

    def _generator_step(self, batches: Sequence[Batch]) -> tuple[list[Restored], dict[str, Tensor]]:
        made, values = [], []
        for batch in batches:
            restored, total, named = self.generator_loss(batch)
            with self.backbone.as_generator():  # also while activations are computed again
                self.generator_optimizer.backward(total / len(batches))
            made.append(restored.detach())
            values.append(named)
        means, norm = self.generator_optimizer.update(mean_of(values))
        return made, means | {"norm/generator": norm}

    @torch.no_grad()
    def _only_restored(self, batches: Sequence[Batch]) -> tuple[list[Restored], dict[str, Tensor]]:
        values = mean_of([_odd(batch) for batch in batches])
        return [self.restore(batch) for batch in batches], self.generator_optimizer.average((), values)

    def generator_loss(self, batch: Batch) -> tuple[Restored, Tensor, dict[str, Tensor]]:
        """Restore a batch: the result and the generator's loss, with graphs, and detached scalars by name."""
        restored, losses, signals = self.generator_losses(batch)
        total = torch.stack([self.objectives[name].weight * loss for name, loss in losses.items()]).sum()
        named = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        return restored, total, signals | named | {"loss/total": total.detach()}

    def generator_losses(self, batch: Batch) -> tuple[Restored, dict[str, Tensor], dict[str, Tensor]]:
        """Restore a batch: the result and the losses by name, with their graphs, and detached signals."""
        restored, losses, signals = self.restore(batch), {}, _odd(batch)
        for name, objective in self.objectives.items():
            losses[name], own = objective.loss(restored)
            signals |= own
        return restored, losses, signals

    def restore(self, batch: Batch) -> Restored:
        """Restore a batch as the generator, with its graph."""
        noise = batch.draws.posterior if self.sample_posterior else None
        embeds = self.prompt_embeds if batch.prompt_embeds is None else batch.prompt_embeds
        image, z = self.backbone.generate(batch.lq, embeds, noise)  # (B, 3, H, W), (B, C, h, w)
        if sees_pictures(self.loss):
            z = self.backbone.encode_plain(image)
        z_target = None
        if uses_hq_latents(self.loss):
            with torch.no_grad():
                z_target = self.backbone.encode_plain(batch.hq)
        return Restored(z, image * 2 - 1, batch.hq * 2 - 1, batch.draws, embeds, z_target)

    def gradient_norms(self, batch: Batch) -> dict[str, Tensor]:
        """Measure the gradient norm of each weighted loss by itself; leaves everything as it was."""
        _, losses, _ = self.generator_losses(batch)
        parameters, norms = self.generator_optimizer.parameters, {}
        for name, loss in losses.items():
            with self.backbone.as_generator():
                weighted = self.objectives[name].weight * loss
                found = torch.autograd.grad(weighted, parameters, retain_graph=True, allow_unused=True)
            norms[f"norm/{name}"] = torch.stack([g.norm() for g in found if g is not None]).norm()
        return norms


def _odd(batch: Batch) -> dict[str, Tensor]:
    """Report how many of the samples are odd, and how."""
    if batch.remarks is None:
        return {}
    means = upload(batch.remarks.float().mean(0), batch.hq.device)  # (5,)
    return {f"mean/data/{name}": mean for name, mean in zip(REMARKS, means, strict=True)}

"""One training step: Algorithm 1 of the paper, lines 6 to 16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .averages import Average, alone, mean_of
from .config import TrainConfig
from .draws import Draws
from .losses import PerceptualLoss, critic_loss, data_loss, vsd_loss
from .networks import Backbone
from .optimizers import Updater


@dataclass(frozen=True)
class Batch:
    """lq and hq, (B, 3, H, W) in [0, 1], and all that is random about them."""

    lq: Tensor
    hq: Tensor
    draws: Draws


class Stepper:
    """Updates the generator and then the critic from one or more batches; all randomness is an argument."""

    def __init__(
        self,
        backbone: Backbone,
        config: TrainConfig,
        perceptual: PerceptualLoss | None,
        prompt_embeds: Tensor,
        negative_embeds: Tensor,
        average: Average = alone,
    ) -> None:
        """Train `backbone`; embeddings are (1, L, D), for every picture, or (B, L, D)."""
        self.backbone, self.loss, self.perceptual = backbone, config.loss, perceptual
        self.weights = {
            "data": config.loss.lambda_data,
            "perceptual": config.loss.lambda_perceptual,
            "vsd": config.loss.lambda_vsd,
        }
        self.sample_posterior = config.model.posterior == "sample"
        self.prompt_embeds, self.negative_embeds = prompt_embeds, negative_embeds
        self.alphas_cumprod = backbone.model.alphas_cumprod.to(prompt_embeds.device)  # (T,)
        optim, half = config.optim, config.run.mixed_precision == "fp16"
        self.generator = Updater(
            backbone.generator_parameters(), optim, optim.output_lr_scale, average, half=half
        )
        with_critic = config.loss.lambda_vsd > 0
        self.critic = (
            Updater(backbone.critic_parameters(), optim, average=average, half=half) if with_critic else None
        )

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Take one step on the mean of the losses of one or more batches of one size.

        Returns detached scalars by name, means over batches and processes. Raises OSEDiffError when the
        losses or gradients of too many steps were not finite; such a step does not reach the weights.
        """
        latents, values = self._generator_step(batches)  # (B, C, h, w) for each batch
        if self.critic is not None:
            values |= self._critic_step(self.critic, latents, batches)
        skipped = sum(updater.guard.total for updater in (self.generator, self.critic) if updater)
        return values | {"skipped": torch.tensor(float(skipped))}

    def _generator_step(self, batches: Sequence[Batch]) -> tuple[list[Tensor], dict[str, Tensor]]:
        latents, values = [], []
        for batch in batches:
            z_hq, total, named = self.generator_loss(batch)
            with self.backbone.as_generator():  # also while activations are computed again
                self.generator.backward(total / len(batches))
            latents.append(z_hq.detach())
            values.append(named)
        means, norm = self.generator.update(mean_of(values))
        return latents, means | {"norm/generator": norm}

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Compute z_hq (B, C, h, w), the generator's loss with its graph, and detached scalars by name."""
        noise = batch.draws.posterior if self.sample_posterior else None
        sr, z_hq = self.backbone.generate(batch.lq, self.prompt_embeds, noise)  # (B, 3, H, W), (B, C, h, w)
        sr, hq = sr * 2 - 1, batch.hq * 2 - 1  # the loss weights are for pictures in [-1, 1]
        losses, values = {"data": data_loss(sr, hq)}, {}
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(sr, hq).mean()
        if self.critic is not None:
            losses["vsd"], distance = self._vsd(z_hq, batch.draws)
            values["vsd/teacher_critic_distance"] = distance.mean()
        total = torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()
        values |= {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        return z_hq, total, values | {"loss/total": total.detach()}

    def _critic_step(
        self, updater: Updater, latents: Sequence[Tensor], batches: Sequence[Batch]
    ) -> dict[str, Tensor]:
        values = []
        for z_hq, batch in zip(latents, batches, strict=True):
            loss = self.critic_loss(z_hq, batch.draws)
            with self.backbone.as_critic():
                updater.backward(loss / len(batches))
            values.append({"loss/critic": loss.detach()})
        means, norm = updater.update(mean_of(values))
        return means | {"norm/critic": norm}

    def critic_loss(self, z_hq: Tensor, draws: Draws) -> Tensor:
        """Compute the critic's loss, with its graph, on detached latents (B, C, h, w)."""
        predict = partial(self.backbone.critic, prompt_embeds=self.prompt_embeds)
        return critic_loss(z_hq, draws.critic_noise, draws.critic_timesteps, self.alphas_cumprod, predict)

    def _vsd(self, z_hq: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        critic = partial(self.backbone.critic, prompt_embeds=self.prompt_embeds)
        teacher = partial(
            self.backbone.teacher,
            prompt_embeds=self.prompt_embeds,
            negative_embeds=self.negative_embeds,
            guidance=self.loss.guidance,
        )
        return vsd_loss(z_hq, draws.vsd_noise, draws.vsd_timesteps, self.alphas_cumprod, critic, teacher)

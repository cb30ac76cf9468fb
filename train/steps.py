"""One training step: Algorithm 1 of the paper, lines 6 to 16."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from osediff_core.errors import OSEDiffError

from .config import TrainConfig
from .draws import Draws
from .losses import PerceptualLoss, critic_loss, data_loss, vsd_loss
from .networks import Backbone
from .optimizers import Updater


class Stepper:
    """Updates the generator and then the critic from one batch; all randomness is an argument."""

    def __init__(
        self,
        backbone: Backbone,
        config: TrainConfig,
        perceptual: PerceptualLoss | None,
        prompt_embeds: Tensor,
        negative_embeds: Tensor,
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
        self.generator = Updater(backbone.generator_parameters(), config.optim)
        with_critic = config.loss.lambda_vsd > 0
        self.critic = Updater(backbone.critic_parameters(), config.optim) if with_critic else None

    def step(self, lq: Tensor, hq: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Take one step on lq and hq, both (B, 3, H, W) in [0, 1].

        Returns detached scalars by name. Raises OSEDiffError if a loss or gradient is not finite, before the
        network that it belongs to is updated.
        """
        z_hq, values = self._generator_step(lq, hq, draws)  # (B, C, h, w)
        return (
            values if self.critic is None else values | self._critic_step(self.critic, z_hq.detach(), draws)
        )

    def _generator_step(self, lq: Tensor, hq: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        noise = draws.posterior if self.sample_posterior else None
        sr, z_hq = self.backbone.generate(lq, self.prompt_embeds, noise)  # (B, 3, H, W), (B, C, h, w)
        sr, hq = sr * 2 - 1, hq * 2 - 1  # the loss weights are for pictures in [-1, 1]
        losses, values = {"data": data_loss(sr, hq)}, {}
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(sr, hq).mean()
        if self.critic is not None:
            losses["vsd"], distance = self._vsd(z_hq, draws)
            values["vsd/teacher_critic_distance"] = distance.mean()
        total = torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()
        with self.backbone.as_generator():
            total.backward()
        values |= {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        values |= {"loss/total": total.detach(), "norm/generator": self.generator.clip()}
        require_finite(values)
        self.generator.update()
        return z_hq, values

    def _critic_step(self, updater: Updater, z_hq: Tensor, draws: Draws) -> dict[str, Tensor]:
        predict = partial(self.backbone.critic, prompt_embeds=self.prompt_embeds)
        loss = critic_loss(z_hq, draws.critic_noise, draws.critic_timesteps, self.alphas_cumprod, predict)
        with self.backbone.as_critic():
            loss.backward()
        values = {"loss/critic": loss.detach(), "norm/critic": updater.clip()}
        require_finite(values)
        updater.update()
        return values

    def _vsd(self, z_hq: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        critic = partial(self.backbone.critic, prompt_embeds=self.prompt_embeds)
        teacher = partial(
            self.backbone.teacher,
            prompt_embeds=self.prompt_embeds,
            negative_embeds=self.negative_embeds,
            guidance=self.loss.guidance,
        )
        return vsd_loss(z_hq, draws.vsd_noise, draws.vsd_timesteps, self.alphas_cumprod, critic, teacher)


def require_finite(values: Mapping[str, Tensor]) -> None:
    """Raise OSEDiffError that names the values which are not finite."""
    finite = torch.stack(list(values.values())).isfinite().tolist()  # one wait for the device
    if not all(finite):
        bad = [name for name, fine in zip(values, finite, strict=True) if not fine]
        raise OSEDiffError(
            f"{', '.join(bad)} became infinite or no number: lower optim.learning_rate, raise "
            "optim.warmup_steps, or look for a base that predicts something else than noise"
        )

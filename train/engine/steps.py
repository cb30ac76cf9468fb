"""One training step: Algorithm 1 of the paper, lines 6 to 16, and what can take the place of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from osediff_core.device.memory import upload

from ..config import TrainConfig
from ..data import REMARKS
from ..networks.backbone import Backbone
from ..objectives.discriminator import PatchDiscriminator
from ..objectives.draws import Draws
from ..objectives.losses import (
    TERMS,
    PerceptualLoss,
    adversarial_loss,
    binned,
    critic_loss,
    csd_loss,
    data_loss,
    discriminator_loss,
    tone_loss,
    vsd_loss,
)
from ..optim.averages import Average, mean_of, single_process
from ..optim.optimizers import Updater
from ..randomness.streams import stream

BINS = 5
"""Shares of the 1000 diffusion timesteps that the distance between the scores is reported for."""


@dataclass(frozen=True)
class Batch:
    """lq and hq, (B, 3, H, W) in [0, 1], all that is random about them, and embeddings of their prompts.

    prompt_embeds: (B, L, D), or None where all pictures have the prompt that the stepper was given. remarks:
    (B, 5), what was odd about the pictures (`train.data.REMARKS`), or None.
    """

    lq: Tensor
    hq: Tensor
    draws: Draws
    prompt_embeds: Tensor | None = None
    remarks: Tensor | None = None


@dataclass(frozen=True)
class Restored:
    """What the generator made of a batch: the latent that VSD and critic see, and sr in [-1, 1]."""

    z: Tensor
    sr: Tensor

    def detach(self) -> Restored:
        """Leave the graph behind."""
        return Restored(self.z.detach(), self.sr.detach())


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
        self.backbone, self.loss, self.perceptual = backbone, config.loss, perceptual
        self.weights = {name: getattr(config.loss, f"lambda_{name}") for name in TERMS}
        self.sample_posterior = config.model.posterior == "sample"
        self.prompt_embeds, self.negative_embeds = prompt_embeds, negative_embeds
        self.alphas_cumprod = backbone.model.alphas_cumprod.to(prompt_embeds.device)  # (T,)
        half = config.run.mixed_precision == "fp16"
        updater = partial(Updater, config=config.optim, average=average, half=half)
        scale = config.optim.output_lr_scale
        self.generator = updater(backbone.generator_parameters(), output_lr_scale=scale)
        self.critic = updater(backbone.critic_parameters()) if self.weights["vsd"] else None
        self.discriminator, self.judge = None, None
        if self.weights["gan"]:
            self.judge = PatchDiscriminator(stream(config.run.seed, "discriminator")).to(prompt_embeds.device)
            self.discriminator = updater(dict(self.judge.named_parameters()))

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Take one step on the mean of the losses of one or more batches of one size.

        Returns detached scalars by name, means over batches and processes. Raises OSEDiffError when the
        losses or gradients of too many steps were not finite; such a step does not reach the weights.
        """
        restored, values = self._generator_step(batches)
        if self.critic is not None:
            for update in range(self.loss.critic_updates):
                values |= self._critic_step(self.critic, restored, batches, update)
            values["mean/critic/loss"] = values["loss/critic"]
        if self.discriminator is not None:
            values |= self._discriminator_step(self.discriminator, restored, batches)
        updaters = (self.generator, self.critic, self.discriminator)
        skipped = sum(updater.guard.total for updater in updaters if updater)
        return values | {"skipped": torch.tensor(float(skipped))}

    def _generator_step(self, batches: Sequence[Batch]) -> tuple[list[Restored], dict[str, Tensor]]:
        made, values = [], []
        for batch in batches:
            restored, total, named = self.generator_loss(batch)
            with self.backbone.as_generator():  # also while activations are computed again
                self.generator.backward(total / len(batches))
            made.append(restored.detach())
            values.append(named)
        means, norm = self.generator.update(mean_of(values))
        return made, means | {"norm/generator": norm}

    def generator_loss(self, batch: Batch) -> tuple[Restored, Tensor, dict[str, Tensor]]:
        """Restore a batch: the result and the generator's loss, with graphs, and detached scalars by name."""
        restored, losses, signals = self.generator_losses(batch)
        total = torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()
        named = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        return restored, total, signals | named | {"loss/total": total.detach()}

    def generator_losses(self, batch: Batch) -> tuple[Restored, dict[str, Tensor], dict[str, Tensor]]:
        """Restore a batch: the result and the losses by name, with their graphs, and detached signals."""
        noise = batch.draws.posterior if self.sample_posterior else None
        embeds = self.prompt_embeds if batch.prompt_embeds is None else batch.prompt_embeds
        image, z_hq = self.backbone.generate(batch.lq, embeds, noise)  # (B, 3, H, W), (B, C, h, w)
        sr, hq = image * 2 - 1, batch.hq * 2 - 1  # the loss weights are for pictures in [-1, 1]
        in_picture = self.critic is not None and self.loss.vsd_space == "image"
        restored = Restored(self.backbone.encode_plain(image) if in_picture else z_hq, sr)
        losses, signals = {"data": data_loss(sr, hq, self.loss.data)}, _odd(batch)
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(sr, hq).mean()
        if self.weights["tone"]:
            losses["tone"] = tone_loss(sr, hq)
        for name, wanted, compute in (
            ("vsd", self.critic is not None, self._vsd),
            ("csd", self.weights["csd"] > 0, self._csd),
        ):
            if wanted:
                losses[name], distance = compute(restored.z, batch.draws, embeds)
                signals |= self._signals(name, distance, batch.draws.vsd_timesteps)
        if self.judge is not None:
            losses["gan"] = adversarial_loss(self.judge(sr))
        return restored, losses, signals

    def gradient_norms(self, batch: Batch) -> dict[str, Tensor]:
        """Measure the gradient norm of each weighted loss by itself; leaves everything as it was."""
        _, losses, _ = self.generator_losses(batch)
        parameters, norms = self.generator.parameters, {}
        for name, loss in losses.items():
            with self.backbone.as_generator():
                weighted = self.weights[name] * loss
                found = torch.autograd.grad(weighted, parameters, retain_graph=True, allow_unused=True)
            norms[f"norm/{name}"] = torch.stack([g.norm() for g in found if g is not None]).norm()
        return norms

    def _critic_step(
        self, updater: Updater, restored: Sequence[Restored], batches: Sequence[Batch], update: int
    ) -> dict[str, Tensor]:
        values = []
        for made, batch in zip(restored, batches, strict=True):
            loss = self.critic_loss(made.z, batch.draws, batch.prompt_embeds, update)
            with self.backbone.as_critic():
                updater.backward(loss / len(batches))
            values.append({"loss/critic": loss.detach()})
        means, norm = updater.update(mean_of(values))
        return means | {"norm/critic": norm}

    def critic_loss(self, z: Tensor, draws: Draws, embeds: Tensor | None = None, update: int = 0) -> Tensor:
        """Compute the critic's loss, with its graph, on detached latents (B, C, h, w)."""
        first = (draws.critic_noise, draws.critic_timesteps)
        noise, timesteps = (first, *draws.critic_more)[update]
        embeds = self.prompt_embeds if embeds is None else embeds
        predict = partial(self.backbone.critic, prompt_embeds=embeds)
        return critic_loss(z, noise, timesteps, self.alphas_cumprod, predict)

    def _discriminator_step(
        self, updater: Updater, restored: Sequence[Restored], batches: Sequence[Batch]
    ) -> dict[str, Tensor]:
        assert self.judge is not None
        updater.optimizer.zero_grad(set_to_none=True)  # what the generator's loss left there
        values = []
        for made, batch in zip(restored, batches, strict=True):
            loss = discriminator_loss(self.judge(batch.hq * 2 - 1), self.judge(made.sr))
            updater.backward(loss / len(batches))
            values.append({"loss/discriminator": loss.detach()})
        means, norm = updater.update(mean_of(values))
        return means | {"norm/discriminator": norm}

    def _vsd(self, z: Tensor, draws: Draws, embeds: Tensor) -> tuple[Tensor, Tensor]:
        critic = partial(self.backbone.critic, prompt_embeds=embeds)
        prompts = {"prompt_embeds": embeds, "negative_embeds": self.negative_embeds}
        teacher = partial(self.backbone.teacher, guidance=self.loss.guidance, **prompts)
        noised = (draws.vsd_noise, draws.vsd_timesteps, self.alphas_cumprod)
        return vsd_loss(z, *noised, critic, teacher, self.loss.vsd_form)

    def _csd(self, z: Tensor, draws: Draws, embeds: Tensor) -> tuple[Tensor, Tensor]:
        prompts = {"prompt_embeds": embeds, "negative_embeds": self.negative_embeds}
        teacher = partial(self.backbone.teacher_pair, **prompts)
        noised = (draws.vsd_noise, draws.vsd_timesteps, self.alphas_cumprod)
        return csd_loss(z, *noised, teacher, self.loss.guidance)

    @staticmethod
    def _signals(name: str, distance: Tensor, timesteps: Tensor) -> dict[str, Tensor]:
        """Report how far the scores are apart: the mean, and sum and count for each share of timesteps."""
        sums, counts = binned(distance, timesteps, BINS)  # (BINS,) each
        label = "vsd/teacher_critic_distance" if name == "vsd" else f"{name}/distance"
        signals = {label: distance.mean()}
        for number, (total, count) in enumerate(zip(sums, counts, strict=True)):
            label = f"{name}/distance at t {1000 * number // BINS}"
            signals |= {f"sum/{label}": total, f"count/{label}": count}
        return signals


def _odd(batch: Batch) -> dict[str, Tensor]:
    """Report how many of the samples are odd, and how."""
    if batch.remarks is None:
        return {}
    means = upload(batch.remarks.float().mean(0), batch.hq.device)  # (5,)
    return {f"mean/data/{name}": mean for name, mean in zip(REMARKS, means, strict=True)}

"""What a step is taken with, and what the generator makes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Noise (B, C, h, w), standard normal, and timesteps (B,) for one batch."""

    posterior: Tensor
    vsd_noise: Tensor
    vsd_timesteps: Tensor
    critic_noise: Tensor
    critic_timesteps: Tensor
    critic_more: tuple[tuple[Tensor, Tensor], ...] = ()
    """Noise and timesteps of the critic's further updates in a step."""

    def for_critic(self, update: int) -> tuple[Tensor, Tensor]:
        """Give noise and timesteps of the critic's update of that number."""
        return ((self.critic_noise, self.critic_timesteps), *self.critic_more)[update]


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
    """What the generator made of a batch, and what that is compared with: all that an objective looks at.

    z: the latent that distillation and critic see, (B, C, h, w). sr, hq: (B, 3, H, W) in [-1, 1], which the
    loss weights are for. embeds: of the prompts, (1, L, D) or (B, L, D). z_target: the latent of hq by the
    base's own encoder, like z, where an objective asks for it.
    """

    z: Tensor
    sr: Tensor
    hq: Tensor
    draws: Draws
    embeds: Tensor
    z_target: Tensor | None = None

    def detach(self) -> Restored:
        """Leave the graph behind."""
        return replace(self, z=self.z.detach(), sr=self.sr.detach())

"""A hinge GAN on pictures: the row of Table 3, with the discriminator of `discriminator.py`."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..randomness.streams import stream
from .batch import Restored
from .discriminator import PatchDiscriminator
from .objective import Context, Objective, Opponent


@dataclass
class GANSettings:
    """Of the section `loss`."""

    lambda_gan: float = 0.0
    """Weight of a hinge GAN loss on pictures, with a small convolutional discriminator of its own."""


def gan(settings: GANSettings, context: Context) -> Objective:
    """Make the objective, and the discriminator that it plays against."""
    network = PatchDiscriminator(stream(context.seed, "discriminator")).to(context.device)
    parameters = dict(network.named_parameters())

    def against(made: Restored, update: int) -> Tensor:
        return discriminator_loss(network(made.hq), network(made.sr))

    updater = context.updater(parameters)
    context.opponents["discriminator"] = Opponent("discriminator", parameters, updater, against)
    return Objective(settings.lambda_gan, lambda made: (adversarial_loss(network(made.sr)), {}))


def adversarial_loss(verdict: Tensor) -> Tensor:
    """Compute the generator's part of the hinge GAN loss from verdicts on its pictures, of any shape."""
    return -verdict.float().mean()


def discriminator_loss(verdict_hq: Tensor, verdict_sr: Tensor) -> Tensor:
    """Compute the discriminator's hinge loss: above 1 on real pictures, below -1 on restored ones."""
    return F.relu(1 - verdict_hq.float()).mean() + F.relu(1 + verdict_sr.float()).mean()

"""What a training step asks of the host, counted without a card: role switches, operations, waits.

    python -m benchmarks.step_cost          # Stable Diffusion 2.1's shapes, 512 x 512, without weights

The networks lie on the meta device, which computes shapes alone: what is counted is what a card would be
asked, and the time is the host's own. Operations are those of the networks and losses; an optimizer's are
left out, because a card takes many tensors in one. A wait is a value that is read, or a copy not let go.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import nn

from benchmarks.waits import CARD, Waits, uploads_let_go
from osediff_core import OSEDiff
from osediff_core.base import sd21
from osediff_core.commands.console import show
from osediff_core.diffusion import alphas_cumprod
from osediff_core.network.config import UNetConfig, VAEConfig, read_config
from osediff_core.network.unet import UNet
from osediff_core.network.vae import VAE
from train.config import ModelConfig, TrainConfig
from train.data import REMARKS
from train.engine import feed, steps
from train.engine.feed import Feed
from train.engine.shares import Share
from train.engine.steps import Stepper
from train.networks import Backbone
from train.objectives import draws
from train.objectives.perceptual import gradient_loss
from train.prompts.prompter import Prompter

SIDE, REPEATS = 512, 20


@dataclass(frozen=True)
class Cost:
    """How often a step changes the role, operations of networks and losses, and what it waits for."""

    switches: int
    operations: int
    waits: list[str]


def on_the_card() -> OSEDiff:
    """Stable Diffusion 2.1-base as shapes; its prompts are embedded already."""
    with CARD:
        unet, vae = UNet(read_config(UNetConfig, sd21.UNET)), VAE(read_config(VAEConfig, sd21.VAE))
    model = OSEDiff(unet, vae, nn.Identity(), None, alphas_cumprod(sd21.SCHEDULER))  # pyright: ignore[reportArgumentType]
    return model.eval().requires_grad_(False)


def backbone_of(model: OSEDiff) -> Backbone:
    """Add what is trained to a model on the card."""
    with CARD:
        return Backbone(model, ModelConfig(), torch.Generator().manual_seed(0))


def cost_of_a_step(backbone: Backbone, side: int) -> Cost:
    """Take one step with one picture, from what the loader gives to the last update, and count."""
    config, model = TrainConfig(), backbone.model
    prompt = torch.zeros(1, 77, model.unet.config.cross_attention_dim, device=CARD)
    stepper = Stepper(backbone, config, gradient_loss, prompt, prompt)
    prompter = Prompter(config.prompts, prompt, model, CARD)
    source: Any = None  # the sample is made here
    given = Feed(config, source, Share(0, 1, 1, 1), model, prompter)
    remarks = torch.zeros(1, len(REMARKS), dtype=torch.int64)
    sample = {"index": torch.zeros(1, dtype=torch.int64), "name": ["a"], "remarks": remarks}
    sample |= {name: torch.rand(1, 3, side, side) for name in ("hq", "lq")}
    with ExitStack() as stack:
        stack.enter_context(uploads_let_go(feed, draws, steps))
        waits = stack.enter_context(Waits())
        play = stack.enter_context(mock.patch.object(backbone, "_play", wraps=backbone._play))
        for updater in (stepper.generator_optimizer, stepper.opponents["critic"].updater):
            uncounted = _uncounted(updater.update, waits)  # pyright: ignore[reportOptionalMemberAccess]
            stack.enter_context(mock.patch.object(updater, "update", uncounted))
        stepper.step([given.batch(sample)])
    return Cost(play.call_count, waits.operations, waits.seen)


def _uncounted(work: Callable, waits: Waits) -> Callable:
    """Let a call's operations not count, its waits count."""

    def call(*args: object) -> object:
        before = waits.operations
        result = work(*args)
        waits.operations = before
        return result

    return call


def milliseconds_of_a_switch(backbone: Backbone) -> float:
    """Return the median time of one change of the role."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        with backbone.as_critic():
            pass
        times.append(1000 * (time.perf_counter() - start) / 2)
    return statistics.median(times)


def main() -> None:
    """Print what a step takes."""
    form = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=form).parse_args()
    torch.set_num_threads(1)
    backbone = backbone_of(on_the_card())
    cost, each = cost_of_a_step(backbone, SIDE), milliseconds_of_a_switch(backbone)
    show(f"{cost.switches} switches of roles, {each:.3f} ms each, {cost.switches * each:.2f} ms a step")
    show(f"{cost.operations} operations of networks and losses")
    show(f"{len(cost.waits)} waits: {dict(Counter(cost.waits))}")


if __name__ == "__main__":
    main()

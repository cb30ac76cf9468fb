"""What is measured: Stable Diffusion's networks with random weights, or the tests' smallest model."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.random_base import random_checkpoint
from benchmarks.train_memory import full_size
from osediff_core import OSEDiff
from osediff_core.base.precision import convert
from osediff_core.device.layout import lay_out
from osediff_core.weights.checkpoint import Checkpoint, read_checkpoint

MICRO = Path(__file__).resolve().parents[2] / "tests" / "golden_micro"


@dataclass(frozen=True)
class Scale:
    """How large the works are: (width, height) of results, the least side, steps, and repetitions."""

    sizes: tuple[tuple[int, int], ...]
    huge: tuple[int, int]
    batch: int
    train_side: int
    train_steps: int
    train_batches: tuple[int, ...]
    times: int
    matrix: int  # side of the product that gives the peak

    @property
    def small(self) -> tuple[int, int]:
        """The smallest result."""
        return self.sizes[0]


FULL = Scale(
    sizes=((512, 512), (1024, 1024), (2048, 2048), (3840, 2160)),
    huge=(9248, 6936),
    batch=8,
    train_side=512,
    train_steps=20,
    train_batches=(1, 2, 4),
    times=5,
    matrix=8192,
)
TINY = Scale(
    sizes=((32, 24), (64, 48)),
    huge=(96, 64),
    batch=2,
    train_side=32,
    train_steps=2,
    train_batches=(1, 2),
    times=1,
    matrix=64,
)


@dataclass(frozen=True)
class Subject:
    """A model in float32 without LoRA and text encoder, what its prompt is embedded as, and a checkpoint."""

    model: OSEDiff
    embeds: Tensor  # (1, L, D)
    checkpoint: Checkpoint
    scale: Scale

    def like(self, dtype: torch.dtype, device: torch.device | None = None) -> OSEDiff:
        """Return a copy in another number format, on this or another device, whose prompt is there."""
        model = copy.deepcopy(self.model)
        for part in (model.unet, model.vae):
            convert(part, dtype, device or self.model.device)
        lay_out(model.vae, model.device)
        embeds = self.embeds.to(model.device, dtype)
        model.embeddings.of = lambda *_: embeds  # type: ignore[method-assign]
        return model.eval().requires_grad_(False)

    def picture(self, size: tuple[int, int], count: int = 1, enlarged: int = 4) -> Tensor:
        """Return what is restored to `size`, (width, height): (B, 3, h, w) uint8 in the host's memory."""
        g = torch.Generator().manual_seed(0)
        shape = (count, 3, size[1] // enlarged, size[0] // enlarged)
        return torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)


def subject(device: torch.device, tiny: bool) -> Subject:
    """Return what is measured; random weights are made on the device."""
    if tiny:
        model = OSEDiff.from_pretrained(MICRO / "tiny_sd", dtype="float32", device=device)
        with torch.no_grad():
            embeds = model.encode_prompt([""])  # (1, L, D)
        model = OSEDiff(model.unet, model.vae, nn.Identity(), None, model.alphas_cumprod)  # pyright: ignore[reportArgumentType]
        return Subject(model, embeds, read_checkpoint(MICRO / "osediff.pkl"), TINY)
    model = full_size(str(device), with_text=False)
    width = model.unet.config.cross_attention_dim
    embeds = torch.randn(1, 77, width, generator=torch.Generator().manual_seed(1)).to(device)
    return Subject(model, embeds, random_checkpoint(), FULL)

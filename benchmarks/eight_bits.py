"""What weights of 8 bits cost, as GGUF files of the kind Q8_0 keep them, and what they would save.

    python -m benchmarks.eight_bits [--picture FILE]

A picture is restored with the demo in float32 and with some of its layers rounded: blocks of 32 weights share
one float16 scale. Printed is the PSNR of each picture from the float32 one; with `inputs too` the layers
compute on inputs of 8 bits as well, as int8 kernels do. What would be saved is counted on Stable Diffusion
2.1's UNet and VAE, from float16.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from osediff_core import OSEDiff, restore
from osediff_core.base import sd21
from osediff_core.network.config import UNetConfig, VAEConfig, read_config
from osediff_core.network.unet import UNet
from osediff_core.network.vae import VAE
from osediff_core.pictures.images import read_image

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "coffee_lq.png"
BLOCK, LEVELS = 32, 127  # weights that share a scale, and the largest level: Q8_0 of llama.cpp
SAVED = 2 - (1 + 2 / BLOCK)  # bytes a weight, from float16


@dataclass(frozen=True)
class Choice:
    """Layers that are rounded."""

    name: str
    parts: tuple[str, ...]
    kinds: tuple[type[nn.Module], ...]


CHOICES = (
    Choice("linear layers of the UNet", ("unet",), (nn.Linear,)),
    Choice("convolutions of the UNet", ("unet",), (nn.Conv2d,)),
    Choice("VAE", ("vae",), (nn.Linear, nn.Conv2d)),
    Choice("all", ("unet", "vae"), (nn.Linear, nn.Conv2d)),
)


@dataclass(frozen=True)
class Row:
    """PSNR in dB from float32, with rounded weights and with rounded inputs too; MiB saved at full size."""

    name: str
    weights: float
    inputs_too: float
    saved: float


def in_blocks(weight: Tensor) -> Tensor:
    """Round a weight (out, ...) to 8 bits, in blocks of each output's weights."""
    flat = weight.flatten(1)
    blocks = F.pad(flat, (0, -flat.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    scale = (blocks.abs().amax(-1, keepdim=True) / LEVELS).half().float()
    rounded = (blocks / scale.where(scale > 0, 1.0)).round() * scale
    return rounded.flatten(1)[:, : flat.shape[1]].reshape(weight.shape)


def of_the_whole(x: Tensor) -> Tensor:
    """Round an input of a layer to 8 bits with one scale."""
    scale = (x.abs().amax() / LEVELS).clamp_min(1e-12)
    return (x / scale).round() * scale


def chosen(model: nn.Module, choice: Choice) -> Iterator[nn.Linear | nn.Conv2d]:
    """The layers of a choice; model has `unet` and `vae`."""
    for part in choice.parts:
        for layer in model.get_submodule(part).modules():
            if isinstance(layer, choice.kinds):
                yield layer  # type: ignore[misc]


@torch.no_grad()
def rounded(model: OSEDiff, choice: Choice, *, inputs_too: bool) -> OSEDiff:
    """A copy of the model with the layers of a choice rounded."""
    model = copy.deepcopy(model)
    for layer in chosen(model, choice):
        layer.weight.copy_(in_blocks(layer.weight))
        if inputs_too:
            layer.register_forward_pre_hook(lambda _, args: (of_the_whole(args[0]),))
    return model


def compare(lq: Tensor) -> Iterator[Row]:
    """Restore lq, (1, 3, H, W), with every choice."""
    model = OSEDiff.from_pretrained(device="cpu", dtype="float32")
    exact = restore(model, lq)
    with torch.device("meta"):
        full = nn.ModuleDict(
            {"unet": UNet(read_config(UNetConfig, sd21.UNET)), "vae": VAE(read_config(VAEConfig, sd21.VAE))}
        )
    for choice in CHOICES:
        found = [restore(rounded(model, choice, inputs_too=too), lq) for too in (False, True)]
        psnr = [float(-10 * (each - exact).square().mean().log10()) for each in found]
        saved = sum(layer.weight.numel() for layer in chosen(full, choice)) * SAVED / 2**20
        yield Row(choice.name, *psnr, saved)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--picture", default=PICTURE, type=Path)
    print("| rounded to 8 bits | weights | inputs too | saved at full size |\n|---|---|---|---|")
    for row in compare(read_image(parser.parse_args(argv).picture).rgb):
        print(f"| {row.name} | {row.weights:.1f} dB | {row.inputs_too:.1f} dB | {row.saved:.0f} MiB |")


if __name__ == "__main__":
    main()

"""What OSEDiff costs at full size: parameters and multiply-accumulates, counted on networks without weights.

Everything is built on PyTorch's meta device, which computes shapes and no values. The paper's own figures
stand here as constants, to be shown beside what is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from ..base import sd21
from ..lora import unet_targets, vae_targets
from ..network.config import UNetConfig, VAEConfig, read_config
from ..network.unet import UNet
from ..network.vae import VAE
from ..prompts.ram import TagConfig

RAM = TagConfig(
    embed=192,
    depths=(2, 2, 18, 2),
    heads=(6, 12, 24, 48),
    window=12,
    width=512,
    hidden=768,
    ffn=3072,
    layers=2,
    tags=4585,
)
"""Recognize Anything with Swin-L, as its published weights are shaped."""

TOKENS = 77  # a prompt's length, padded


class PaperRow(NamedTuple):
    """A column of the paper's Table 2: 512x512 pixels on an A100; millions of trainable parameters."""

    steps: int
    seconds: float
    trainable: float


PAPER_TABLE_2 = {
    "StableSR": PaperRow(200, 11.50, 150.0),
    "DiffBIR": PaperRow(50, 2.72, 380.0),
    "SeeSR": PaperRow(50, 4.30, 749.9),
    "PASD": PaperRow(20, 2.80, 625.0),
    "ResShift": PaperRow(15, 0.71, 118.6),
    "SinSR": PaperRow(1, 0.16, 118.6),
    "OSEDiff": PaperRow(1, 0.35, 8.5),
}
"""Table 2 of "One-Step Effective Diffusion Network for Real-World Image Super-Resolution" (NeurIPS 2024)."""


@dataclass(frozen=True)
class PartCost:
    """One network or a share of it: its parameters, and what one picture asks of it."""

    name: str
    parameters: int
    macs: int


@dataclass(frozen=True)
class Trainable:
    """Parameters that training changes."""

    unet_lora: int
    vae_lora: int
    conv_in: int
    critic_lora: int

    @property
    def generator(self) -> int:
        """What a checkpoint holds."""
        return self.unet_lora + self.vae_lora + self.conv_in

    @property
    def total(self) -> int:
        """Generator and critic."""
        return self.generator + self.critic_lora


class FullSize:
    """Stable Diffusion 2.1-base on the meta device."""

    def __init__(self) -> None:
        """Build the three networks; they take no memory."""
        from transformers import CLIPTextConfig, CLIPTextModel

        with torch.device("meta"):
            self.unet = UNet(read_config(UNetConfig, sd21.UNET)).eval()
            self.vae = VAE(read_config(VAEConfig, sd21.VAE)).eval()
            self.text_encoder = CLIPTextModel(CLIPTextConfig(**sd21.TEXT_ENCODER)).eval()

    def parts(self, side: int = 512) -> list[PartCost]:
        """Count what a picture of `side` x `side` pixels asks of each part; 8 divides the side."""
        vae, latent = self.vae, (1, 4, side // 8, side // 8)
        image, z = torch.empty(1, 3, side, side, device="meta"), torch.empty(latent, device="meta")
        embeds = torch.empty(1, TOKENS, sd21.UNET["cross_attention_dim"], device="meta")
        t, ids = torch.empty(1, device="meta"), torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
        encoder = [vae.encoder, vae.quant_conv]
        decoder = [vae.decoder, vae.post_quant_conv]
        return [
            PartCost("VAE encoder", _size(encoder), macs(lambda: vae.encode(image))),
            PartCost("UNet, one step", _size([self.unet]), macs(lambda: self.unet(z, t, embeds))),
            PartCost("VAE decoder", _size(decoder), macs(lambda: vae.decode(z))),
            PartCost("text encoder", _size([self.text_encoder]), macs(lambda: self.text_encoder(ids))),
        ]

    def trainable(self, rank: int = 4) -> Trainable:
        """Count what the published training changes, at one rank for UNet, VAE and critic."""
        names = [name for group in unet_targets(self.unet).values() for name in group]
        unet = lora_parameters(self.unet, names, rank)
        vae = lora_parameters(self.vae, vae_targets(self.vae), rank)
        return Trainable(unet, vae, _size([self.unet.conv_in]), critic_lora=unet)


def tagger() -> PartCost:
    """Count RAM's tagging network with DAPE folded in, which looks at 384x384 pixels whatever the picture."""
    from ..prompts.tag_network import empty_network

    network = empty_network(RAM).to("meta").eval()
    picture = torch.empty(1, 3, RAM.image_size, RAM.image_size, device="meta")
    return PartCost("tagger (RAM + DAPE)", _size([network]), macs(lambda: network(picture)))


def lora_parameters(module: nn.Module, names: Iterable[str], rank: int) -> int:
    """Count the low-rank pairs of the layers `names`: rank * (inputs with their window + outputs)."""
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    weights = [shapes[f"{name}.weight"] for name in names]
    return sum(rank * (shape[1:].numel() + shape[0]) for shape in weights)


@torch.no_grad()
def macs(run: Callable[[], object]) -> int:
    """Count the multiply-accumulates of convolutions, matrix products and attention while `run` runs."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2  # it counts a multiply-accumulate as two operations


def _size(modules: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())

"""The published way of running OSEDiff, written down from its description to be measured against.

The networks are diffusers', as there, in PyTorch's default layout. Adapters stay beside the weights they
change, and the UNet sees one tile of 96 x 96 latent pixels (overlap 32) at a time, in float32 sums. The VAE's
pieces are in `benchmarks.published_hook`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.gaussian import gaussian_window
from benchmarks.published_hook import run_hook
from benchmarks.reference import as_diffusers
from osediff_core import OSEDiff
from osediff_core.color import match_color
from osediff_core.lora import A, B
from osediff_core.network.vae import VAE
from osediff_core.pipeline.plan import make_plan
from osediff_core.pipeline.run import decode
from osediff_core.pipeline.runtime import Runtime
from osediff_core.pipeline.unet_tiles import grid
from osediff_core.weights.checkpoint import Checkpoint

TILE, OVERLAP = 96, 32
ENCODER_TILE, DECODER_TILE = 1024, 224
"""Image pixels and latent pixels: the published program's defaults."""


class Adapted(nn.Module):
    """A layer with its LoRA beside it: every call computes three layers instead of one."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, a: Tensor, b: Tensor, scale: float) -> None:
        """Take the layer and its tensors: a (r, in, ...), b (out, r, ...)."""
        super().__init__()
        self.layer, self.scale = layer, scale
        self.out_channels = layer.weight.shape[0]
        if isinstance(layer, nn.Linear):
            self.down = nn.Linear(a.shape[1], a.shape[0], bias=False)
            self.up = nn.Linear(b.shape[1], b.shape[0], bias=False)
        else:
            self.down = nn.Conv2d(
                a.shape[1], a.shape[0], layer.kernel_size, layer.stride, layer.padding, bias=False
            )
            self.up = nn.Conv2d(b.shape[1], b.shape[0], 1, bias=False)
        self.down.weight.data, self.up.weight.data = a.clone(), b.clone()
        self.to(layer.weight)

    @property
    def weight(self) -> Tensor:
        """The layer's own, for those who ask where and in what precision it is."""
        return self.layer.weight

    def forward(self, x: Tensor, *_: object) -> Tensor:
        """Return the layer's output plus scale * B A x."""
        return self.layer(x) + self.up(self.down(x)) * self.scale


def attach(module: nn.Module, tensors: dict[str, Tensor], scale: float) -> None:
    """Put every LoRA of `tensors` beside its layer, and parameters trained in full into their place."""
    for name in [key.removesuffix(A) for key in tensors if key.endswith(A)]:
        parent, _, child = name.rpartition(".")
        layer = module.get_submodule(name)
        adapted = Adapted(layer, tensors[name + A], tensors[name + B], scale)
        setattr(module.get_submodule(parent), child, adapted)
    for name in ("conv_in.weight", "conv_in.bias"):
        if name in tensors:
            owner = module.get_submodule("conv_in")
            layer = owner.layer if isinstance(owner, Adapted) else owner
            getattr(layer, name.rpartition(".")[2]).data.copy_(tensors[name])


@dataclass(frozen=True)
class Published:
    """The published program: diffusers' networks, beside the plain base on whose tensors they are."""

    model: OSEDiff
    unet: nn.Module
    vae: nn.Module

    def predict_noise(self, z: Tensor, embeds: Tensor) -> Tensor:
        """Return eps of (B, C, h, w), float32."""
        t = torch.full((z.shape[0],), self.model.timestep, device=z.device)  # (B,)
        return self.unet(z.to(self.unet.dtype), t, embeds.to(self.unet.dtype)).sample.float()


def publish(model: OSEDiff, checkpoint: Checkpoint, exact: bool = False) -> Published:
    """Attach a checkpoint to the networks of a plain base, unmerged; exact: the VAE stays ours."""
    # diffusers' UNet casts nowhere inside; ours keeps its end in float32.
    unet, vae = as_diffusers(model.unet).to(model.unet.dtype), model.vae
    if not exact:
        vae = as_diffusers(vae.to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]
    attach(unet, checkpoint.unet, checkpoint.scale_unet)
    attach(vae, checkpoint.vae, checkpoint.scale_vae)
    return Published(model, unet, vae)


def predict_noise_by_tiles(way: Published, z: Tensor, embeds: Tensor) -> Tensor:
    """Return eps of (1, C, h, w), float32: one tile after the other, whole where the latent is small."""
    boxes = grid(z.shape[-2], z.shape[-1], TILE, OVERLAP)
    if len(boxes) == 1:
        return way.predict_noise(z, embeds)
    window = gaussian_window(boxes[0].height, boxes[0].width).float().to(z.device)
    total, weight = torch.zeros_like(z, dtype=torch.float32), torch.zeros_like(z, dtype=torch.float32)
    for box in boxes:
        here = (..., slice(box.y, box.y + box.height), slice(box.x, box.x + box.width))
        total[here] += way.predict_noise(z[here], embeds) * window
        weight[here] += window
    return total / weight


@torch.no_grad()
def restore_published(way: Published, x: Tensor, embeds: Tensor) -> Tensor:
    """Restore (1, 3, H, W) in [0, 1], already enlarged, as the published program does after reading it.

    With our VAE, it is whole in encoding, in our pieces in decoding: a comparison at equal exactness.
    """
    model, exact = way.model, isinstance(way.vae, VAE)
    z = model.encode(x) if exact else encode_hooked(way, x)  # (1, C, h, w)
    z_hq = model.predict_x0(z, predict_noise_by_tiles(way, z, embeds))  # (1, C, h, w)
    runtime = Runtime()
    plan = make_plan(model, *x.shape[-2:], runtime=runtime)
    sr = decode(model, z_hq, plan, runtime) if exact else decode_hooked(way, z_hq)  # (1, 3, H, W)
    return match_color(sr, x, "adain")


def encode_hooked(way: Published, x: Tensor) -> Tensor:
    """Return the scaled latent of (1, 3, H, W) in [0, 1], (1, C, h, w), in the published pieces."""
    moments = run_hook(way.vae, (x * 2 - 1).to(way.model.dtype), "encode", ENCODER_TILE)  # (1, 2 C, h, w)
    return moments.chunk(2, 1)[0] * way.model.scaling_factor


def decode_hooked(way: Published, z: Tensor) -> Tensor:
    """Return the image of a scaled latent (1, C, h, w), (1, 3, H, W) in [0, 1], in the published pieces."""
    z = (z / way.model.scaling_factor).to(way.model.dtype)
    return (run_hook(way.vae, z, "decode", DECODER_TILE).float() / 2 + 0.5).clamp(0, 1)

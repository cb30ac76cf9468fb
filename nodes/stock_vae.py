"""The VAE of ComfyUI's own loaders as the core's, in whose stages its very layers run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..osediff_core.base.original_names import renamed, vae_names
from ..osediff_core.errors import OSEDiffError
from ..osediff_core.network.config import VAEConfig
from ..osediff_core.network.vae import VAE

if TYPE_CHECKING:
    from comfy import sd

KINDS = "of the KL family (Stable Diffusion 1, 2, XL and 3, Flux)"


class OnTokens(nn.Module):
    """A 1 x 1 convolution as the linear layer that it is."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, n, C') from (B, n, C)."""
        return self.conv(x.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)


def core_vae(vae: sd.VAE) -> VAE:
    """Build the core's VAE of a stock one's layers: no weight is copied, and ComfyUI moves them as it did.

    Raises OSEDiffError for a VAE of another build, which is named.
    """
    stock = vae.first_stage_model
    layers: dict[str, Any] = {name: m for name, m in stock.named_modules() if [*m.parameters(recurse=False)]}
    try:
        config = _config(layers)
        found = renamed(layers, vae_names({"down_block_types": config.down_block_types}))
        with torch.device("meta"):
            core = VAE(config)
        expected: dict[str, Any] = {
            name: m for name, m in core.named_modules() if [*m.parameters(recurse=False)]
        }
        if len(found) != len(layers) or found.keys() != expected.keys() or getattr(stock, "bn", None):
            raise ValueError("it has other layers")
        for name, place in expected.items():
            _put(core, name, place, found[name])
    except (KeyError, ValueError, AttributeError) as error:
        name, why = (
            type(stock).__name__,
            error if isinstance(error, ValueError) else f"it has no {error.args[0]}",
        )
        raise OSEDiffError(
            f"exact tiles need a VAE {KINDS}, got {name} of another build ({why}): use ComfyUI's own node"
        ) from error
    core.computes_in = vae.vae_dtype
    return core.eval()


def _config(layers: dict[str, Any]) -> VAEConfig:
    """Return what the layers say of the build; KeyError or AttributeError where they are of another."""
    levels = sum(f"encoder.down.{i}.block.0.conv1" in layers for i in range(len(layers)))
    depth = sum(f"encoder.down.0.block.{i}.conv1" in layers for i in range(len(layers)))
    widths = (layers[f"encoder.down.{i}.block.0.conv1"].out_channels for i in range(levels))
    first, last = layers["encoder.conv_in"], layers["decoder.conv_out"]
    return VAEConfig(
        block_out_channels=tuple(widths),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        in_channels=first.in_channels,
        out_channels=last.out_channels,
        latent_channels=layers["decoder.conv_in"].in_channels,
        layers_per_block=depth,
        norm_num_groups=layers["encoder.norm_out"].num_groups,
        mid_block_add_attention="encoder.mid.attn_1.q" in layers,
        use_quant_conv="quant_conv" in layers,
        use_post_quant_conv="post_quant_conv" in layers,
    )


def _put(core: VAE, name: str, expected: Any, layer: Any) -> None:  # noqa: ANN401
    """Put a stock layer where the core has one that computes the same; ValueError where it does not."""
    linear = isinstance(expected, nn.Linear) and isinstance(layer, nn.Conv2d)
    kind = nn.Conv2d if linear else type(expected)
    settings = () if linear else ("kernel_size", "stride", "padding", "num_groups", "eps")
    same = isinstance(layer, kind) and all(
        getattr(layer, setting, None) == getattr(expected, setting, None) for setting in settings
    )
    shapes = [tuple(each.weight.shape) for each in (layer, expected)]
    if (
        not same
        or shapes[0][: len(shapes[1])] != shapes[1]
        or any(n != 1 for n in shapes[0][len(shapes[1]) :])
    ):
        raise ValueError(f"its {name} is {type(layer).__name__} {shapes[0]}")
    parent, _, own = name.rpartition(".")
    setattr(core.get_submodule(parent), own, OnTokens(layer) if linear else layer)

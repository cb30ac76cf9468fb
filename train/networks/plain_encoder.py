"""The base's own VAE encoder beside the trained one, for losses that look at pictures again."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from osediff_core.network.vae import VAE


class PlainEncoder(nn.Module):
    """A frozen copy of a VAE's encoder, made before adapters enter it; gradients pass through it.

    A copy rather than a switch, because activations that are computed again in the backward pass would meet
    the adapters as they are then.
    """

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.encoder, self.quant_conv = copy.deepcopy(vae.encoder), copy.deepcopy(vae.quant_conv)
        self.scaling_factor = vae.config.scaling_factor
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Encode (B, 3, H, W) in [0, 1] to the scaled mode of the posterior, (B, C, h, w) float32."""
        moments = self.encoder(image * 2 - 1)  # (B, 2 C, h, w)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        return moments.chunk(2, dim=1)[0].float() * self.scaling_factor

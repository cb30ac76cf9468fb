"""Which layers compute in float32 when the rest of a model is rounded to half precision.

The one step, x0 = (z - sqrt(1 - a) eps) / sqrt(a), multiplies errors of eps by 14.6 at t = 999. So the step
is taken in float32, and so are the two layers that make eps: the UNet's last norm and last convolution, which
have 0.001 % of its weights. UNet and step see the same rounded latent.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

EXACT = ("conv_norm_out", "conv_out")  # of a UNet; VAE and text encoder have no layers of these names outside


def exact_dtype(network: nn.Module, dtype: torch.dtype) -> Callable[[str], torch.dtype]:
    """Return what tells a parameter's number format by its name, where the network is rounded to `dtype`."""
    exact = {f"{name}." for name in EXACT if hasattr(network, name)}
    return lambda name: torch.float32 if name.startswith(tuple(exact)) else dtype


def convert(module: nn.Module, dtype: torch.dtype, device: torch.device | str | None = None) -> nn.Module:
    """Round and move a network in place; its exact layers stay in float32."""
    wanted = exact_dtype(module, dtype)
    if device is not None:
        module.to(device=device)
    for name, parameter in module.named_parameters():
        parameter.data = parameter.data.to(wanted(name))
    return module

"""Which layers compute in float32 when the rest of a model is rounded to half precision.

The one step, x0 = (z - sqrt(1 - a) eps) / sqrt(a), multiplies errors of eps by 14.6 at t = 999. So the step
is taken in float32, and so are the two layers that make eps: the UNet's last norm and last convolution, which
have 0.001 % of its weights. UNet and step see the same rounded latent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

EXACT = ("conv_norm_out", "conv_out")  # of a UNet; VAE and text encoder have no layers of these names outside


def exact_dtype(network: nn.Module, dtype: torch.dtype) -> Callable[[str], torch.dtype]:
    """Return what tells a parameter's number format by its name, where the network is rounded to `dtype`."""
    exact = {f"{name}." for name in EXACT if hasattr(network, name)}
    return lambda name: torch.float32 if name.startswith(tuple(exact)) else dtype


def mix_precision(network: nn.Module) -> nn.Module:
    """Let the exact layers of a network take what comes in another number format than their weights."""
    for name in EXACT:
        if hasattr(network, name):
            getattr(network, name).register_forward_pre_hook(_as_weight)
    return network


def convert(module: nn.Module, dtype: torch.dtype, device: torch.device | str | None = None) -> nn.Module:
    """Round and move a network in place; its exact layers stay in float32."""
    wanted = exact_dtype(module, dtype)
    if device is not None:
        nn.Module.to(module, device=device)  # the plain method: that of diffusers warns about an empty list
    for name, parameter in module.named_parameters():
        parameter.data = parameter.data.to(wanted(name))
    return module


def _as_weight(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (arguments[0].to(module.weight.dtype), *arguments[1:])

"""Which layers compute in float32 when the rest of a model is rounded to half precision.

The one step, x0 = (z - sqrt(1 - a) eps) / sqrt(a), multiplies errors of eps by 14.6 at t = 999. So the step
is taken in float32, and so are the two layers that make eps: the UNet's last norm and last convolution, which
have 0.001 % of its weights. UNet and step see the same rounded latent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import nn

from ..errors import OSEDiffError

EXACT = ("conv_norm_out", "conv_out")  # of a UNet; VAE and text encoder have no layers of these names outside
MEASURED = "bfloat16_psnr"
"""Of what a merged model says of itself: the worst PSNR of its bfloat16 from its float32, in dB."""
NEAR = 50.0  # dB: the two differ by 0.8 levels of 8 bits in the mean of squares, which nobody sees

logger = logging.getLogger(__name__)


def multiplies_bfloat16() -> bool:
    """Whether the processor has units for bfloat16, and PyTorch a library that uses them."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # PyTorch does not promise to keep them
    known = [check for name in names if (check := getattr(torch.cpu, name, None)) is not None]
    return torch.backends.mkldnn.is_available() and any(check() for check in known)


def processor_dtype(about: Mapping[str, str]) -> torch.dtype:
    """Return what "auto" is on a processor, for a model that says `about` of itself.

    bfloat16, with a line of the log, where the processor multiplies it and it was measured to come near; else
    float32. Raises OSEDiffError for a measure that is no number.
    """
    said = about.get(MEASURED)
    if said is None:
        return torch.float32
    try:
        psnr = float(said)
    except ValueError as error:
        raise OSEDiffError(
            f"the merged model has {said!r} as {MEASURED}, which must be a number: merge it again"
        ) from error
    if not (psnr >= NEAR and multiplies_bfloat16()):
        return torch.float32
    logger.info("computing in bfloat16, %.1f dB from float32 at worst when this model was measured", psnr)
    return torch.bfloat16


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

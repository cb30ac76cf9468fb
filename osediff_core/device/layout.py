"""How the weights of convolutions lie in memory, where one way is faster than another."""

from __future__ import annotations

import torch
from torch import nn


def lay_out(vae: nn.Module, device: torch.device) -> None:
    """Put the channels of a VAE's weights last where it computes in bfloat16 on a processor; in place.

    oneDNN computes so: from the other layout it converts every activation, there and back, which takes more
    than the convolutions (`python -m benchmarks.layouts`). In float32 a twelfth of the time would be saved,
    but with the channels last PyTorch's GroupNorm loses digits: the mean of the squares less the square of
    the mean cancels.
    """
    weight = next(vae.parameters())
    if device.type == "cpu" and weight.dtype == torch.bfloat16:
        vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

"""A checkpoint folded into a network that is in memory already, by the functions that loading uses."""

import torch

from osediff_core.lora import check_fit, folded


@torch.no_grad()
def fold(module, tensors, scale, *, strength=1.0, dtype=None):
    """Change the weights in place, each rounded once, to `dtype` or its own; nothing unless all fits."""
    check_fit(module, tensors)
    for name, parameter in module.named_parameters():
        wanted = folded(name, parameter, tensors, scale, strength)
        if wanted is not parameter:
            parameter.data = wanted.to(dtype or parameter.dtype)

"""Classifier-free guidance."""

from __future__ import annotations

from torch import Tensor


def guided(eps_negative: Tensor, eps_prompt: Tensor, scale: float) -> Tensor:
    """Move from the negative prompt's prediction towards the prompt's: classifier-free guidance."""
    return eps_negative + scale * (eps_prompt - eps_negative)

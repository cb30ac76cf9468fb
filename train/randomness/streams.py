"""Streams of random numbers, one for each purpose, from the seed and the purpose's name alone."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *what: str | int) -> torch.Generator:
    """Make a CPU generator for one purpose; streams of different names do not overlap.

    The name is hashed because PyTorch's CPU generator looks at 32 bits of its seed only, and neighbouring
    seeds would otherwise share streams.
    """
    name = "/".join(map(str, (seed, *what))).encode()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:4], "little"))

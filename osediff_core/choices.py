"""What some arguments may be. Free of torch, so that help and menus can say it without waiting."""

from __future__ import annotations

COLORS = ("adain", "wavelet", "none")
DTYPES = ("float16", "bfloat16", "float32")
OFFLOADS = ("none", "parts")
MOST_DETAIL = 2.0
"""Beyond it, latents are far from any that the decoder has seen (docs/detail.md)."""

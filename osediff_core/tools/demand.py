"""What cards of several sizes would be asked for pictures of several sizes: planned, not measured.

The plans are those of `restore` for Stable Diffusion 2.1-base in float16, made on networks without weights
for a card that has nothing else in its memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from ..base import sd21
from ..diffusion import alphas_cumprod
from ..model import OSEDiff, Part
from ..pipeline.plan import AUTO_TILE, Plan, make_plan
from ..pipeline.runtime import Runtime, weight_bytes
from .cost import FullSize

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

SIDES = (512, 1024, 2048, 3072, 4096, 8192)  # pixels of a square result
CARDS = (24, 12, 8, 6)  # GiB
SCALE = 4


@dataclass(frozen=True)
class Demand:
    """Of a result of side x side pixels: bytes with the weights where the VAE runs whole, plans, arithmetic.

    cards: the plan for each of CARDS.
    """

    side: int
    whole: int
    cards: Sequence[Plan]
    macs: int


class _Card(Runtime):
    """A card with so many bytes free beside the weights; None: as many as are asked for."""

    def __init__(self, free: int | None) -> None:
        super().__init__()
        self._free = free

    def device(self, model: OSEDiff) -> torch.device:
        return torch.device("cuda")

    def free_memory(self, device: torch.device) -> int | None:
        return None if device.type == "cpu" else self._free

    def free_beside(self, model: OSEDiff, part: Part) -> int | None:
        return self._free


def demands(sides: Sequence[int] = SIDES) -> tuple[int, list[Demand]]:
    """Return the bytes of the weights in float16, and what results of these sides ask for."""
    counted, full_size = FullSize(), FullSize()
    no_words = cast("CLIPTokenizer", None)
    model = OSEDiff(
        full_size.unet.half(),
        full_size.vae.half(),
        full_size.text_encoder.half(),
        no_words,
        alphas_cumprod(sd21.SCHEDULER),
    )
    weights = weight_bytes([model.unet, model.vae, model.text_encoder])
    tile = {part.name: part.macs for part in counted.parts(AUTO_TILE * 8)}["UNet, one step"]

    def plan(side: int, free: int | None) -> Plan:
        return make_plan(model, side // SCALE, side // SCALE, runtime=_Card(free), scale=SCALE)

    found = []
    for side in sides:
        whole = plan(side, None)
        parts = {part.name: part.macs for part in counted.parts(side)}
        boxes = len(whole.denoise[0].boxes)
        unet = parts["UNet, one step"] if boxes == 1 else boxes * tile
        macs = parts["VAE encoder"] + unet + parts["VAE decoder"]
        cards = [plan(side, card * 2**30 - weights) for card in CARDS]
        found.append(Demand(side, whole.device_bytes + weights, cards, macs))
    return weights, found

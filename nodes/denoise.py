"""OSEDiffDenoise: the one step."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..osediff_core.choices import MOST_DETAIL
from ..osediff_core.pipeline.plan import make_plan, tile_and_overlap
from ..osediff_core.pipeline.run import denoise
from .encode import CATEGORY
from .errors import in_a_sentence
from .latents import pack_latent, prompt_embeds, unpack_latent
from .managed import ManagedModel, ModelType
from .newer import where_known
from .progress import say
from .runtime import ComfyRuntime

TILES = ("auto", "off", "48", "64", "96", "128", "192", "256")


def tile_input() -> io.Combo.Input:
    """Return the tile widget, the same on every node that has one."""
    return io.Combo.Input(
        "tile",
        options=list(TILES),
        default="auto",
        tooltip="Side of the tiles that the UNet works on, in latent pixels (one is 8 pixels of the picture "
        "for Stable Diffusion). auto: whole up to 768 × 768 pixels of the picture, in tiles of 768 (96 "
        "latent pixels) above. off: always whole. Smaller tiles need less memory.",
    )


def overlap_input(optional: bool = False) -> io.Int.Input:
    """Return the overlap widget; where it is optional it is among the advanced ones."""
    return io.Int.Input(
        "overlap",
        default=32,
        min=0,
        max=128,
        tooltip="How far neighbouring tiles lie over each other, in latent pixels; with auto in those of "
        "Stable Diffusion. Where it is not less than the tile, a third of that is used.",
        optional=optional,
        **(where_known(io.Int.Input, advanced=True) if optional else {}),
    )


def detail_input() -> io.Float.Input:
    """Return the dial from faithful to generative, the same on every node that has one."""
    return io.Float.Input(
        "detail",
        default=1.0,
        min=0.0,
        max=MOST_DETAIL,
        step=0.05,
        optional=True,
        tooltip="How far the restoring step goes. 1 is as trained; less keeps nearer to the encoded input, "
        "more goes beyond.",
    )


def tile_value(tile: str) -> str | int:
    """Return the core's form of a choice of the tile list."""
    return int(tile) if tile.isdigit() else tile


class OSEDiffDenoise(io.ComfyNode):
    """The UNet is run once, and the clean latent follows in closed form."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Without a conditioning the prompt is empty."""
        return io.Schema(
            node_id="OSEDiffDenoise",
            display_name="OSEDiff Denoise",
            category=CATEGORY,
            description="Restores the latent in one step. The same input always gives the same result.",
            inputs=[
                ModelType.Input("model", tooltip="The model from OSEDiff Loader; its UNet is run once."),
                io.Latent.Input("latent", tooltip="The latent from OSEDiff LQ Encode."),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="The prompt from OSEDiff Text Encode. Not connected: the empty prompt.",
                ),
                tile_input(),
                overlap_input(),
                detail_input(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="For OSEDiff Decode. ComfyUI's own VAE Decode takes that of Stable Diffusion "
                    "2.1, and not that of the demo.",
                )
            ],
            hidden=[io.Hidden.unique_id],
            **where_known(io.Schema, search_aliases=["super resolution", "restore"]),
        )

    @classmethod
    @in_a_sentence
    def execute(
        cls,
        model: ManagedModel,
        latent: dict[str, Any],
        tile: str,
        overlap: int,
        conditioning: list[Any] | None = None,
        detail: float = 1.0,
    ) -> io.NodeOutput:
        """LATENT (B, C, h, w), with whatever else the incoming one carried."""
        overlap, note = fitting_overlap(tile, overlap)  # refuses a tile that is none before any work
        z_lq = unpack_latent(model.idle, latent)  # (B, C, h, w)
        embeds = prompt_embeds(model, conditioning)  # (1 or B, L, D)
        runtime, f = ComfyRuntime(model, cls.hidden.unique_id), model.idle.reduction
        size = [side * f for side in z_lq.shape[-2:]]
        cut = {"count": len(z_lq), "tile": tile_value(tile), "overlap": overlap}
        plan = make_plan(model.idle, *size, runtime=runtime, **cut)
        runtime.show_plan(plan)
        z_hq = denoise(model.idle, z_lq, embeds, plan, runtime, detail)  # (B, C, h, w)
        if note:
            say(cls.hidden.unique_id, note)
        return io.NodeOutput({**latent, "samples": pack_latent(model.idle, z_hq)})


def fitting_overlap(tile: str, overlap: int) -> tuple[int, str]:
    """Return the overlap, a third of the tile where it is not less than the tile, and a line that says so."""
    side, _ = tile_and_overlap(tile_value(tile), overlap)
    if side is None or overlap < side:
        return overlap, ""
    return side // 3, f"overlap {side // 3}: it must be less than the tile, which is {side}"

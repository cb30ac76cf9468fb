"""VAE Encode and VAE Decode in exact tiles, for the VAE of ComfyUI's own loaders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from comfy import model_management
from comfy_api.latest import io
from torch import Tensor

from ..osediff_core.device.memory import first_that_fits
from ..osediff_core.network.vae import VAE, run_whole
from ..osediff_core.pipeline.plan import VAEPlan, plan_half
from ..osediff_core.vae.exact import decode_in_pieces, encode_in_pieces
from ..osediff_core.vae.memory import decode_bytes, encode_bytes
from .apply import NATIVE
from .errors import in_a_sentence
from .images import join_image
from .managed import Managed
from .newer import where_known
from .progress import progress_bar
from .runtime import free_beside
from .stock_vae import core_vae

if TYPE_CHECKING:
    from comfy import sd

TILES = ("auto", "64", "128", "256", "512", "1024")
HELP = (
    "The layers run piece by piece over the whole picture, norms and attention see all of it: no seams, and "
    "no shift of colour from tile to tile."
)


def piece_input() -> io.Combo.Input:
    """Return the tile widget of both nodes."""
    return io.Combo.Input(
        "tile",
        options=list(TILES),
        default="auto",
        tooltip="Side of the tiles in pixels of the picture. It changes nothing in the result but the last "
        "bits: smaller tiles take less memory. auto: whole where it fits, else as memory allows.",
    )


def vae_input() -> io.Vae.Input:
    """Return the VAE of both nodes."""
    return io.Vae.Input(
        "vae", tooltip="Any VAE of the KL family: Stable Diffusion 1, 2, XL and 3, Flux. Others are refused."
    )


class OSEDiffVAEEncodeExact(io.ComfyNode):
    """An IMAGE becomes what VAE Encode makes of it, whatever its size."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As VAE Encode (Tiled), without its overlap."""
        return io.Schema(
            node_id="OSEDiffVAEEncodeExact",
            display_name="VAE Encode (exact tiles)",
            category=NATIVE,
            description=f"Encodes pictures of any size as VAE Encode does, in the memory there is. {HELP}",
            inputs=[
                io.Image.Input(
                    "pixels", tooltip="The picture; sides are cut to multiples of 8, as by VAE Encode."
                ),
                vae_input(),
                piece_input(),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="As from VAE Encode.")],
            **where_known(io.Schema, search_aliases=["tiled", "seamless"]),
        )

    @classmethod
    @in_a_sentence
    def execute(cls, pixels: Tensor, vae: sd.VAE, tile: str) -> io.NodeOutput:
        """LATENT (B, C, h, w): the mode of the posterior, as ComfyUI has it; OSEDiffError for other VAEs."""
        core = core_vae(vae)
        x = vae.vae_encode_crop_pixels(pixels).movedim(-1, 1)  # (B, 3, H, W)
        measure = partial(encode_bytes, core, *x.shape[-2:])

        def run(one: Tensor, plan: VAEPlan, how: dict[str, Any]) -> Tensor:
            one = (one.float() * 2 - 1).to(core.dtype)  # (1, 3, H, W) in [-1, 1]
            moments = _run(core, core.encoder_stages(), encode_in_pieces, one, plan, how)  # (1, 2 C, h, w)
            return moments.chunk(2, dim=1)[0].float()

        z = _one_by_one(vae, x, tile, measure, len(core.encoder_stages()), run)
        return io.NodeOutput({"samples": z.to(model_management.intermediate_device())})


class OSEDiffVAEDecodeExact(io.ComfyNode):
    """A LATENT becomes what VAE Decode makes of it, whatever its size."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As VAE Decode (Tiled), without its overlap."""
        return io.Schema(
            node_id="OSEDiffVAEDecodeExact",
            display_name="VAE Decode (exact tiles)",
            category=NATIVE,
            description=f"Decodes latents of any size as VAE Decode does, in the memory there is. {HELP}",
            inputs=[
                io.Latent.Input("samples", tooltip="The latent to decode."),
                vae_input(),
                piece_input(),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="As from VAE Decode.")],
            **where_known(io.Schema, search_aliases=["tiled", "seamless"]),
        )

    @classmethod
    @in_a_sentence
    def execute(cls, samples: dict[str, Any], vae: sd.VAE, tile: str) -> io.NodeOutput:
        """IMAGE (B, H, W, 3); OSEDiffError for other VAEs."""
        core, z = core_vae(vae), samples["samples"]  # (B, C, h, w), unscaled
        f = 2 ** (len(core.config.block_out_channels) - 1)
        measure = partial(decode_bytes, core, z.shape[-2] * f, z.shape[-1] * f)

        def run(one: Tensor, plan: VAEPlan, how: dict[str, Any]) -> Tensor:
            image = _run(core, core.decoder_stages(), decode_in_pieces, one.to(core.dtype), plan, how)
            return (image.float() / 2 + 0.5).clamp(0, 1)  # (1, 3, H, W)

        return io.NodeOutput(join_image(_one_by_one(vae, z, tile, measure, len(core.decoder_stages()), run)))


def _one_by_one(
    vae: sd.VAE,
    batch: Tensor,
    tile: str,
    measure: Callable[..., tuple[int, int]],
    steps: int,
    run: Callable[[Tensor, VAEPlan, dict[str, Any]], Tensor],
) -> Tensor:
    """Return what `run` makes of each of a batch, by the first way for which memory suffices."""
    managed, report = Managed(vae.patcher), progress_bar()
    device = managed.device
    free = free_beside(managed), int(model_management.get_free_memory(torch.device("cpu")))
    plans = plan_half(partial(measure, device=device), int(tile) if tile.isdigit() else tile, device, free)
    managed.move_in(plans[0].device_bytes)
    done = []
    for i, one in enumerate(batch.split(1)):

        def on_step(step: int, before: int = i * steps) -> None:
            report(before + step, len(batch) * steps)

        how = {"device": device, "on_step": on_step}
        done.append(
            first_that_fits(plans, lambda plan, one=one, how=how: run(one, plan, how)).to(batch.device)
        )
    return torch.cat(done)


def _run(
    core: VAE,
    stages: list[Any],
    in_pieces: Callable[..., Tensor],
    x: Tensor,
    plan: VAEPlan,
    how: dict[str, Any],
) -> Tensor:
    """Return a half of the VAE, whole or in pieces, as planned."""
    if plan.piece is None:
        return run_whole([layer for _, layer in stages], x.to(how["device"]), how["on_step"])
    return in_pieces(core, x, piece=plan.piece, keep=plan.keep, **how)

"""OSEDiffApply: OSEDiff on the MODEL and the VAE of ComfyUI's own loaders, for its own sampler."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..osediff_core.weights.checkpoint import read_checkpoint
from .denoise import tile_input, tile_value
from .errors import in_a_sentence
from .native import check_model, check_vae, patched_model, patched_vae, run_in_tiles, start_from_the_latent
from .newer import where_known
from .paths import DEMO, fingerprint, resolve, weights_paths

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

NATIVE = "OSEDiff/native"
MERGED = "none (merged)"


def native_weights() -> dict[str, Path]:
    """Every checkpoint that may fit a MODEL: the demo's is for no model that ComfyUI loads."""
    return {name: path for name, path in weights_paths().items() if name != DEMO}


class OSEDiffApply(io.ComfyNode):
    """MODEL and VAE become those of OSEDiff."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; what goes in is not changed."""
        return io.Schema(
            node_id="OSEDiffApply",
            display_name="OSEDiff Apply (native)",
            category=NATIVE,
            description="Puts an OSEDiff checkpoint on Stable Diffusion 2.1-base from ComfyUI's own loader. "
            "Then any KSampler with 1 step, cfg 1 and denoise 1 restores what VAE Encode gives it.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Stable Diffusion 2.1-base from Load Checkpoint. LoRAs may be on it.",
                ),
                io.Vae.Input(
                    "vae", tooltip="The VAE of the same checkpoint: OSEDiff adapts its encoder as well."
                ),
                io.Combo.Input(
                    "weights",
                    options=[*native_weights(), MERGED],
                    tooltip="The OSEDiff checkpoint, from models/osediff. none: MODEL and VAE come from a "
                    "file that osediff convert --to checkpoint made, which has it in it.",
                ),
                tile_input(),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="For KSampler: 1 step, cfg 1, denoise 1, scheduler simple."
                ),
                io.Vae.Output(
                    display_name="vae", tooltip="For VAE Encode of the enlarged picture, and for VAE Decode."
                ),
            ],
            **where_known(io.Schema, search_aliases=["super resolution", "restore", "one step"]),
        )

    @classmethod
    def fingerprint_inputs(cls, weights: str, **_rest: object) -> tuple[object, ...]:
        """Tell a replaced file of the same name apart, so that it is read again."""
        return () if weights == MERGED else fingerprint(resolve(weights, native_weights(), "checkpoint"))

    @classmethod
    @in_a_sentence
    def execute(cls, model: ModelPatcher, vae: VAE, weights: str, tile: str) -> io.NodeOutput:
        """Clones; OSEDiffError for a MODEL or a VAE of another kind, or where the checkpoint misfits."""
        check_model(model)
        check_vae(vae)
        if weights == MERGED:
            model = model.clone()
        else:
            checkpoint = read_checkpoint(resolve(weights, native_weights(), "checkpoint"))
            model, vae = patched_model(model, checkpoint), patched_vae(vae, checkpoint)
        start_from_the_latent(model)
        run_in_tiles(model, tile_value(tile))
        return io.NodeOutput(model, vae)

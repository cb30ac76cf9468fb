"""OSEDiffLoader: a base and an OSEDiff checkpoint become one model."""

from __future__ import annotations

from pathlib import Path

from comfy import model_management
from comfy_api.latest import io

from ..osediff_core import OSEDiff
from ..osediff_core.base.marker import read_marker
from ..osediff_core.choices import DTYPES
from ..osediff_core.errors import OSEDiffError
from .errors import in_a_sentence
from .managed import ManagedModel, ModelType, choose_dtype
from .newer import where_known
from .paths import (
    base_paths,
    decoder_paths,
    fingerprint,
    resolve,
    vocabulary_folder,
    weights_paths,
)

CATEGORY = "OSEDiff"
IN_THE_BASE = "none (merged into the base)"
OWN_DECODER = "the base's own"


class OSEDiffLoader(io.ComfyNode):
    """Load a base, fold the LoRA of a checkpoint into it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the lists are read anew at every refresh of the page."""
        return io.Schema(
            node_id="OSEDiffLoader",
            display_name="OSEDiff Loader",
            category=CATEGORY,
            description="Loads a base model and folds the LoRA of an OSEDiff checkpoint into it.",
            inputs=[
                io.Combo.Input(
                    "base",
                    options=list(base_paths()),
                    tooltip="The model that the checkpoint was trained on: the small demo, or Stable "
                    "Diffusion 2.1-base as a file in models/checkpoints, as a diffusers folder in "
                    "models/diffusers, or in the hub's cache.",
                ),
                io.Combo.Input(
                    "weights",
                    options=[*weights_paths(), IN_THE_BASE],
                    tooltip="The OSEDiff checkpoint, from models/osediff: a .safetensors file of this "
                    "project, or the published osediff.pkl. It must belong to the base. A base with a "
                    "checkpoint merged into it (osediff convert --to merged) needs none.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", *DTYPES],
                    default="auto",
                    tooltip="Number format of the model. auto is what ComfyUI chooses for this device: "
                    "usually float16 on a GPU, float32 on a CPU.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Strength of the LoRA. 1 is as trained; less keeps nearer to the base, which "
                    "cannot restore by itself.",
                ),
                io.Combo.Input(
                    "decoder",
                    options=[OWN_DECODER, *decoder_paths()],
                    default=OWN_DECODER,
                    optional=True,
                    tooltip="Another decoder for the base's latents, from models/osediff_decoder: the "
                    "lighter one that is published as sd21_lwdecoder.pth takes a quarter of the arithmetic "
                    "and half of the memory. Pictures are others than those of the base's own.",
                ),
            ],
            outputs=[ModelType.Output(display_name="model", tooltip="For the other OSEDiff nodes.")],
            **where_known(io.Schema, search_aliases=["super resolution", "load upscaler", "restore"]),
        )

    @classmethod
    def fingerprint_inputs(
        cls, base: str, weights: str, dtype: str, strength: float, decoder: str = OWN_DECODER
    ) -> tuple[object, ...]:
        """Tell a replaced file of the same name apart, so that it is loaded again."""
        files = *chosen(base, weights), chosen_decoder(decoder)
        return tuple(fingerprint(path) for path in files if path is not None)

    @classmethod
    @in_a_sentence
    def execute(
        cls, base: str, weights: str, dtype: str, strength: float, decoder: str = OWN_DECODER
    ) -> io.NodeOutput:
        """Load.

        Raises OSEDiffError where a file is broken, or checkpoint or decoder belong to another base.
        """
        model = OSEDiff.from_pretrained(
            *chosen(base, weights),
            strength=strength,
            dtype=choose_dtype(dtype),
            device=model_management.unet_offload_device(),
            vocabulary=vocabulary_folder(),
            decoder=chosen_decoder(decoder),
        )
        return io.NodeOutput(ManagedModel(model))


def chosen(base: str, weights: str) -> tuple[Path, Path | None]:
    """Return base and checkpoint behind the names in the lists, None for one that is in the base already.

    Raises OSEDiffError where one is gone, or where nothing would be there that can restore.
    """
    place = resolve(base, base_paths(), "base")
    if weights != IN_THE_BASE:
        return place, resolve(weights, weights_paths(), "checkpoint")
    if read_marker(place) is None:
        raise OSEDiffError(f"{base!r} has no checkpoint merged into it, so it cannot restore: choose weights")
    return place, None


def chosen_decoder(name: str) -> Path | None:
    """Return the file behind a name in the list, None for the base's own decoder.

    OSEDiffError where it is gone.
    """
    places: dict[str, Path | None] = {OWN_DECODER: None, **decoder_paths()}
    return resolve(name, places, "decoder")

"""OSEDiffDecode: the restored latent becomes a picture of the exact size, in the colours of the original."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..osediff_core.choices import COLORS
from ..osediff_core.color import check_method, from_levels
from ..osediff_core.errors import OSEDiffError
from ..osediff_core.pipeline.plan import make_plan
from ..osediff_core.pipeline.run import decode, finish
from ..osediff_core.resize import resize_alpha, resize_bicubic
from ..osediff_core.transparency import color_weight
from .encode import CATEGORY
from .errors import in_a_sentence
from .images import join_image, split_image
from .latents import pads_to, true_size, unpack_latent
from .managed import ManagedModel, ModelType
from .newer import where_known
from .progress import say
from .runtime import ComfyRuntime


def color_input() -> io.Combo.Input:
    """Return the colour widget, the same on every node that has one."""
    return io.Combo.Input(
        "color",
        options=list(COLORS),
        default="adain",
        tooltip="How the colours are brought back to the original's. adain: mean and spread of each channel, "
        "as published. wavelet: everything coarse, which also evens out local tints. none: as the model "
        "made it.",
    )


class OSEDiffDecode(io.ComfyNode):
    """Decode, cut the padding away, match the colours."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the reference gives colours, and the size where the latent does not know it."""
        return io.Schema(
            node_id="OSEDiffDecode",
            display_name="OSEDiff Decode",
            category=CATEGORY,
            description="Decodes the restored latent, cuts the padding away and matches the colours.",
            inputs=[
                ModelType.Input("model", tooltip="The model from OSEDiff Loader; its image decoder is used."),
                io.Latent.Input("latent", tooltip="The latent from OSEDiff Denoise."),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="Where the colours come from: the lq output of OSEDiff LQ Encode. Its alpha, if "
                    "it has one, is put back. Not connected: the colours stay as the model made them.",
                ),
                color_input(),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The restored picture.")],
            hidden=[io.Hidden.unique_id],
            **where_known(io.Schema, search_aliases=["super resolution", "restore"]),
        )

    @classmethod
    @in_a_sentence
    def execute(
        cls, model: ManagedModel, latent: dict[str, Any], color: str, reference: Tensor | None = None
    ) -> io.NodeOutput:
        """IMAGE (B, H, W, 3 or 4); what size it has and why is shown on the node."""
        check_method(color)
        z = unpack_latent(model.idle, latent)  # (B, C, h, w)
        size, note = choose_size(latent, z, reference, model.idle.reduction)
        colours, alpha = fit_reference(reference, size, len(z))
        if colours is None and color != "none":
            note += "\ncolours as the model made them: no reference is connected"
        runtime = ComfyRuntime(model, cls.hidden.unique_id)
        padded = [side * model.idle.reduction for side in z.shape[-2:]]
        plan = make_plan(model.idle, *padded, count=len(z), runtime=runtime)
        plan.check()
        runtime.show_plan(plan)
        sr = decode(model.idle, z, plan, runtime)  # (B, 3, h * f, w * f)
        image = finish(sr, sr, size, "none") if colours is None else finish_all(sr, colours, alpha, color)
        say(cls.hidden.unique_id, note)
        return io.NodeOutput(join_image(image, alpha), ui=ui.PreviewText(note))


def choose_size(
    latent: dict[str, Any], z: Tensor, reference: Tensor | None, reduction: int
) -> tuple[tuple[int, int], str]:
    """(height, width) of the result and a line that says so: the latent's, the reference's, or padded."""
    padded = (z.shape[-2] * reduction, z.shape[-1] * reduction)
    size = true_size(latent, padded, reduction)
    theirs = padded if reference is None else (reference.shape[1], reference.shape[2])
    if size is None and reference is not None and pads_to(theirs, padded, reduction):
        size = theirs
    if size is not None:
        return size, f"{size[1]} × {size[0]}"
    left = "a padded pixel" if reduction == 2 else f"up to {reduction - 1} padded pixels"
    unknown = f"neither the latent nor the reference says where the picture ends, so {left} may be left"
    return padded, f"{padded[1]} × {padded[0]}" + (
        f": {unknown} at the right and the bottom" if reduction > 1 else ""
    )


def finish_all(sr: Tensor, colours: Tensor, alpha: Tensor | None, color: str) -> Tensor:
    """Finish images (B, 3, H, W) one by one, for each reference hides parts of its own.

    colours: (B, 3, h, w) in [0, 1]; alpha: (B, 1, h, w) or None. Returns (B, 3, h, w).
    """
    if alpha is None:
        return finish(sr, colours, (colours.shape[-2], colours.shape[-1]), color)
    size, out = (colours.shape[-2], colours.shape[-1]), []
    for i, (one, reference) in enumerate(zip(sr.split(1), colours.split(1), strict=True)):
        weight = color_weight(alpha[i : i + 1])
        out.append(finish(one, reference, size, color, None if weight is None else weight.to(sr.device)))
    return out[0] if len(out) == 1 else torch.cat(out)  # a copy of a large picture counts


def fit_reference(
    reference: Tensor | None, size: tuple[int, int], batch: int
) -> tuple[Tensor | None, Tensor | None]:
    """Colours (B, 3, *size) in [0, 1] and alpha (B, 1, *size) of a reference IMAGE, resized where needed."""
    if reference is None:
        return None, None
    if len(reference) not in (1, batch):
        each = f", or one for each of {batch} latents" if batch > 1 else ""
        raise OSEDiffError(
            f"expected one reference image{each}, got {len(reference)}: connect the lq output of the same "
            "OSEDiff LQ Encode"
        )
    colours, alpha = split_image(reference.expand(batch, -1, -1, -1))
    colours = from_levels(resize_bicubic(colours, size))  # (B, 3, *size)
    return colours, None if alpha is None else resize_alpha(alpha, size)

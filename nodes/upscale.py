"""OSEDiffUpscale: the four steps in one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..osediff_core.color import check_method
from ..osediff_core.pipeline.run import restore
from ..osediff_core.prompts.text import join_prompts
from ..osediff_core.resize import resize_alpha, target_size
from .dape import DapeType, ManagedTagger, one_by_one, prompts_for
from .decode import color_input
from .denoise import detail_input, fitting_overlap, overlap_input, tile_input, tile_value
from .encode import IMAGE_TIP, prompt_input
from .errors import in_a_sentence
from .images import join_image, split_image
from .keep import keep_regions
from .managed import ManagedModel, ModelType
from .newer import where_known
from .progress import say
from .runtime import ComfyRuntime
from .sizes import SizeWidgets, scale_input, size_inputs, size_outputs


class OSEDiffUpscale(io.ComfyNode):
    """A picture in, the restored picture out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node: the settings of the four nodes, with the published overlap of tiles."""
        return io.Schema(
            node_id="OSEDiffUpscale",
            display_name="OSEDiff Upscale",
            category="OSEDiff",
            description="Restores and enlarges a picture in one step, to exactly the size that is asked for.",
            inputs=[
                ModelType.Input("model", tooltip="The model from OSEDiff Loader."),
                io.Image.Input("image", tooltip=IMAGE_TIP),
                scale_input(),
                prompt_input(),
                color_input(),
                tile_input(),
                detail_input(),
                DapeType.Input(
                    "dape",
                    optional=True,
                    tooltip="A tagger from OSEDiff DAPE Loader: it puts what it sees in each picture before "
                    "the prompt, as published. Not connected: the prompt alone.",
                ),
                io.Mask.Input(
                    "keep",
                    optional=True,
                    tooltip="What stays as it was, only enlarged: faces, text, logos. White is kept, with a "
                    "soft border. One mask for all pictures, or one for each.",
                ),
                *size_inputs(),
                overlap_input(optional=True),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The restored picture."),
                io.String.Output(display_name="prompt", tooltip="The prompt that was used."),
                *size_outputs(),
            ],
            hidden=[io.Hidden.unique_id],
            **where_known(
                io.Schema,
                search_aliases=["super resolution", "restore", "enhance", "upscaler", "image restoration"],
                essentials_category="Image Tools",
            ),
        )

    @classmethod
    @in_a_sentence
    def execute(
        cls,
        model: ManagedModel,
        image: Tensor,
        scale: float,
        prompt: str,
        color: str,
        tile: str,
        detail: float = 1.0,
        dape: ManagedTagger | None = None,
        keep: Tensor | None = None,
        overlap: int = 32,
        **others: Any,  # noqa: ANN401  # the widgets of `size_inputs`
    ) -> io.NodeOutput:
        """IMAGE (B, height, width, 3 or 4), the prompt, and width and height."""
        check_method(color)  # before the tagger, and not after it
        colours, alpha = split_image(image)  # (B, 3, H, W)
        scale, middle = SizeWidgets(**others).chosen(scale).of(*colours.shape[-2:])
        resized = target_size(colours.shape[-2], colours.shape[-1], scale)
        overlap, narrowed = fitting_overlap(tile, overlap)
        prompts = prompts_for(prompt, len(colours))
        if dape is not None:
            tagger = dape.load()
            prompts = one_by_one(colours, prompt, lambda one, text: tagger(one, text, scale)[0])
        restored = restore(
            model.idle,
            colours,
            alpha=alpha,
            scale=scale,
            middle=middle,
            prompt=prompts if len(prompts) > 1 else prompts[0],
            color=color,
            tile=tile_value(tile),
            overlap=overlap,
            detail=detail,
            runtime=ComfyRuntime(model, cls.hidden.unique_id),
        )  # (B, 3, *middle)
        if keep is not None:
            restored = keep_regions(restored, colours, keep, resized, middle)
        used = join_prompts(prompts)
        lines = (f"{middle[1]} × {middle[0]}", narrowed, used if dape is not None else "")
        note = "\n".join(filter(None, lines))
        say(cls.hidden.unique_id, note)
        alpha = None if alpha is None else resize_alpha(alpha, resized, middle)
        return io.NodeOutput(join_image(restored, alpha), used, middle[1], middle[0], ui=ui.PreviewText(note))

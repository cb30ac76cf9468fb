"""OSEDiffUpscale: the four steps in one node."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..osediff_core.pipeline.run import restore
from ..osediff_core.prompts.text import join_prompts
from ..osediff_core.resize import resize_alpha, target_size
from .dape import DapeType, ManagedTagger, one_by_one, prompts_for
from .decode import color_input
from .denoise import detail_input, tile_input, tile_value
from .encode import IMAGE_TIP, prompt_input, scale_input
from .errors import in_a_sentence
from .images import join_image, split_image
from .managed import ManagedModel, ModelType
from .progress import say
from .runtime import ComfyRuntime


class OSEDiffUpscale(io.ComfyNode):
    """A picture in, the restored picture out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The same settings as on the four nodes, with the published overlap of tiles."""
        return io.Schema(
            node_id="OSEDiffUpscale",
            display_name="OSEDiff Upscale",
            category="OSEDiff",
            description="Restores and enlarges a picture in one step, to exactly scale times its size.",
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
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The restored picture."),
                io.String.Output(display_name="prompt", tooltip="The prompt that was used."),
            ],
            hidden=[io.Hidden.unique_id],
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
    ) -> io.NodeOutput:
        """IMAGE (B, floor(scale * H + 0.5), floor(scale * W + 0.5), 3 or 4), and the prompt."""
        colours, alpha = split_image(image)  # (B, 3, H, W)
        size = target_size(colours.shape[-2], colours.shape[-1], scale)
        prompts = prompts_for(prompt, len(colours))
        if dape is not None:
            tagger = dape.load()
            prompts = one_by_one(colours, prompt, lambda one, text: tagger(one, text, scale)[0])
        restored = restore(
            model.idle,
            colours,
            alpha=alpha,
            scale=scale,
            prompt=prompts if len(prompts) > 1 else prompts[0],
            color=color,
            tile=tile_value(tile),
            detail=detail,
            runtime=ComfyRuntime(model, cls.hidden.unique_id),
        )  # (B, 3, *size)
        used = join_prompts(prompts)
        note = f"{size[1]} × {size[0]}" + (f"\n{used}" if dape is not None else "")
        say(cls.hidden.unique_id, note)
        alpha = None if alpha is None else resize_alpha(alpha, size)
        return io.NodeOutput(join_image(restored, alpha), used, ui=ui.PreviewText(note))

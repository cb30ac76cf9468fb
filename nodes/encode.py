"""OSEDiffTextEncode and OSEDiffLQEncode: what goes into the one step."""

from __future__ import annotations

from typing import Any

from comfy import model_management
from comfy_api.latest import io
from torch import Tensor

from ..osediff_core.inputs import check_image
from ..osediff_core.pipeline.plan import make_plan
from ..osediff_core.pipeline.run import encode, encode_prompt, prepare
from ..osediff_core.prompts.text import split_prompts
from ..osediff_core.resize import crop, resize_alpha
from .errors import in_a_sentence
from .images import join_image, split_image
from .latents import SIZE_KEY, pack_latent
from .managed import ManagedModel, ModelType
from .newer import where_known
from .runtime import ComfyRuntime
from .sizes import SizeWidgets, scale_input, size_inputs, size_outputs

CATEGORY = "OSEDiff/steps"
IMAGE_TIP = (
    "The picture to restore. Each of a batch is worked on by itself. For transparency, put Load Image's "
    "image and mask together with Join Image with Alpha first."
)


def prompt_input() -> io.String.Input:
    """Return the prompt widget, the same on every node that has one."""
    return io.String.Input(
        "prompt",
        multiline=True,
        dynamic_prompts=True,
        default="",
        tooltip="What is in the picture, as words separated by commas: cat, grass, tree. It may be empty. "
        "For a batch, a line of three dashes parts the prompt of one picture from that of the next.",
    )


class OSEDiffTextEncode(io.ComfyNode):
    """A prompt becomes a CONDITIONING by the text encoder of the base."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """One model, one prompt."""
        return io.Schema(
            node_id="OSEDiffTextEncode",
            display_name="OSEDiff Text Encode",
            category=CATEGORY,
            description="Encodes a prompt as OSEDiff was trained: cut at the tokenizer's length, no weights "
            "in parentheses.",
            inputs=[
                ModelType.Input("model", tooltip="The model from OSEDiff Loader; its text encoder is used."),
                prompt_input(),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="For OSEDiff Denoise.")],
        )

    @classmethod
    @in_a_sentence
    def execute(cls, model: ManagedModel, prompt: str) -> io.NodeOutput:
        """(1, L, D) in a CONDITIONING, or one for each of several prompts."""
        embeds = encode_prompt(model.idle, split_prompts(prompt), ComfyRuntime(model))  # (1 or B, L, D)
        return io.NodeOutput([[embeds.to(model_management.intermediate_device()), {}]])


class OSEDiffLQEncode(io.ComfyNode):
    """The picture, resized, becomes the latent that the one step starts from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the resized picture is an output too: Decode takes its colours from it."""
        return io.Schema(
            node_id="OSEDiffLQEncode",
            display_name="OSEDiff LQ Encode",
            category=CATEGORY,
            description="Resizes the picture to its final size and encodes it with the trained encoder.",
            inputs=[
                ModelType.Input("model", tooltip="The model from OSEDiff Loader; its image encoder is used."),
                io.Image.Input("image", tooltip=IMAGE_TIP),
                scale_input(),
                *size_inputs(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="For OSEDiff Denoise. It remembers the exact size, so that the padding is cut "
                    "away in the end.",
                ),
                io.Image.Output(
                    display_name="lq",
                    tooltip="The picture resized without restoring: the reference for OSEDiff Decode, or to "
                    "compare with.",
                ),
                *size_outputs(),
            ],
            hidden=[io.Hidden.unique_id],
            **where_known(io.Schema, search_aliases=["super resolution", "restore"]),
        )

    @classmethod
    @in_a_sentence
    def execute(
        cls,
        model: ManagedModel,
        image: Tensor,
        scale: float,
        **others: Any,  # noqa: ANN401  # the widgets of `size_inputs`
    ) -> io.NodeOutput:
        """LATENT (B, C, h, w) with the true size beside it, IMAGE (B, H, W, 3 or 4), and width and height."""
        colours, alpha = split_image(image)
        check_image(colours)
        scale, middle = SizeWidgets(**others).chosen(scale).of(*colours.shape[-2:])
        runtime, sides = ComfyRuntime(model, cls.hidden.unique_id), colours.shape[-2:]
        plan = make_plan(model.idle, *sides, count=len(colours), scale=scale, middle=middle, runtime=runtime)
        plan.check()
        runtime.show_plan(plan)
        padded = prepare(colours, plan)  # (B, 3, h * f, w * f)
        z = encode(model.idle, padded, plan, runtime)  # (B, C, h, w)
        latent = {"samples": pack_latent(model.idle, z), SIZE_KEY: plan.size}
        alpha = None if alpha is None else resize_alpha(alpha, plan.resized, plan.size)
        return io.NodeOutput(latent, join_image(crop(padded, plan.size), alpha), plan.size[1], plan.size[0])

"""OSEDiffDAPELoader and OSEDiffDAPEPrompt: a tagger says what is in the picture. Both are optional."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy import model_management
from comfy_api.latest import io, ui
from torch import Tensor

from ..osediff_core import Tagger
from ..osediff_core.base.vocabulary import sd2_tokenizer
from ..osediff_core.errors import OSEDiffError
from ..osediff_core.prompts.text import (
    cut_prompt,
    escape_parentheses,
    join_prompts,
    join_tags,
    split_prompts,
    split_words,
    token_counter,
)
from .errors import in_a_sentence
from .images import split_image
from .managed import ManagedWhole, choose_dtype
from .newer import where_known
from .paths import NO_TAGGER, fingerprint, resolve, tagger_paths, vocabulary_folder
from .progress import progress_bar, say

if TYPE_CHECKING:
    from collections.abc import Callable

CATEGORY = "OSEDiff/prompt"
DapeType = io.Custom("OSEDIFF_DAPE")
FOLDED = "none (in the tagger's file, or plain RAM)"
# An estimate: what tagging one picture of 384 x 384 holds at once at full size, in float32.
WORKING_MEMORY = 256 * 2**20


class ManagedTagger(ManagedWhole):
    """A tagger, managed: what travels on an OSEDIFF_DAPE wire."""

    def __init__(self, tagger: Tagger) -> None:
        devices = model_management.get_torch_device(), model_management.unet_offload_device()
        super().__init__(tagger.network, *devices)
        self._tagger = tagger

    def load(self) -> Tagger:
        """Return the tagger on ComfyUI's device."""
        self.move_in(WORKING_MEMORY)
        return self._tagger


class OSEDiffDAPELoader(io.ComfyNode):
    """Load a tagger."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the lists are read anew at every refresh of the page."""
        files = list(tagger_paths()) or [NO_TAGGER]
        return io.Schema(
            node_id="OSEDiffDAPELoader",
            display_name="OSEDiff DAPE Loader",
            category=CATEGORY,
            description="Loads the tagger that the published OSEDiff takes its prompts from: RAM, which "
            "names what a picture shows, adapted by DAPE to degraded pictures.",
            inputs=[
                io.Combo.Input(
                    "tagger",
                    options=files,
                    tooltip="A file from models/osediff_dape: the one that `osediff convert-dape` makes (0.4 "
                    "GB), or ram_swin_large_14m.pth with its two tag lists beside it (5.6 GB).",
                ),
                io.Combo.Input(
                    "dape",
                    options=[FOLDED, *(name for name in files if name.endswith(".pth"))],
                    default=FOLDED,
                    tooltip="DAPE.pth, where the tagger is ram_swin_large_14m.pth. A converted file has DAPE "
                    "in it already. Plain RAM, without DAPE, is what the published training used.",
                ),
                io.Boolean.Input(
                    "antialias",
                    default=False,
                    tooltip="How the picture is brought to the tagger's 384 × 384 pixels. Off is as "
                    "published; on is smoother for large pictures, and may give other tags.",
                ),
            ],
            outputs=[
                DapeType.Output(display_name="dape", tooltip="For OSEDiff DAPE Prompt or OSEDiff Upscale.")
            ],
            **where_known(io.Schema, search_aliases=["tagger", "RAM", "recognize anything"]),
        )

    @classmethod
    def fingerprint_inputs(cls, tagger: str, dape: str, antialias: bool) -> tuple[object, ...]:
        """Tell a replaced file of the same name apart, so that it is loaded again."""
        names = [tagger] if dape == FOLDED else [tagger, dape]
        return tuple(fingerprint(resolve(name, tagger_paths(), "tagger")) for name in names)

    @classmethod
    @in_a_sentence
    def execute(cls, tagger: str, dape: str, antialias: bool) -> io.NodeOutput:
        """Load the tagger.

        Raises OSEDiffError where a file is broken, or the files do not belong together.
        """
        files = tagger_paths()
        loaded = Tagger.from_pretrained(
            resolve(tagger, files, "tagger"),
            None if dape == FOLDED else resolve(dape, files, "DAPE file"),
            antialias=antialias,
            dtype=choose_dtype("auto"),
            device=model_management.unet_offload_device(),
        )
        return io.NodeOutput(ManagedTagger(loaded))


class OSEDiffDAPEPrompt(io.ComfyNode):
    """Tags of a picture become its prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """One output for our nodes, one for ComfyUI's own text encoder."""
        return io.Schema(
            node_id="OSEDiffDAPEPrompt",
            display_name="OSEDiff DAPE Prompt",
            category=CATEGORY,
            description="Names what is in the picture, as the published OSEDiff does, and shows it here.",
            inputs=[
                DapeType.Input("dape", tooltip="The tagger from OSEDiff DAPE Loader."),
                io.Image.Input(
                    "image",
                    tooltip="The picture to name. The published code looks at the picture already enlarged: "
                    "the lq output of OSEDiff LQ Encode.",
                ),
                io.Float.Input(
                    "threshold_offset",
                    default=0.0,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Added to the certainty that each tag needs. 0 is as published; more gives fewer "
                    "tags, less gives more.",
                ),
                io.String.Input(
                    "leave_out",
                    default="",
                    tooltip="Tags that are not wanted, separated by commas: blurry, screenshot.",
                ),
                io.String.Input(
                    "extra_text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip="Your own words, put after the tags. May be empty. For a batch, a line of three "
                    "dashes parts the words for one picture from those for the next.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="prompt",
                    tooltip="For OSEDiff Text Encode or OSEDiff Upscale: tags and extra text, as published. "
                    "The prompts of a batch are parted by lines of three dashes.",
                ),
                io.String.Output(
                    display_name="clip_prompt",
                    is_output_list=True,
                    tooltip="For ComfyUI's own CLIP Text Encode: the same, cut at 75 tokens, with "
                    "parentheses escaped. A batch gives a list, one prompt for each picture.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **where_known(io.Schema, search_aliases=["tagger", "caption", "describe image", "RAM"]),
        )

    @classmethod
    @in_a_sentence
    def execute(
        cls, dape: ManagedTagger, image: Tensor, threshold_offset: float, leave_out: str, extra_text: str
    ) -> io.NodeOutput:
        """Return a STRING for all pictures, and a list of one for each; show the tags on the node."""
        colours, _alpha = split_image(image)  # (B, 3, H, W)
        unwanted, tagger = split_words(leave_out), dape.load()

        def tag(one: Tensor, text: str) -> str:
            return join_tags(tagger.tags(one, offset=threshold_offset, leave_out=unwanted)[0], text)

        prompts = one_by_one(colours, extra_text, tag)
        count = token_counter(sd2_tokenizer(vocabulary_folder()))
        cut = [cut_prompt(prompt, count) for prompt in prompts]
        known = {label.lower() for label in tagger.labels}
        strange = [
            f"{word!r} is no tag, so it cannot be left out" for word in unwanted if word.lower() not in known
        ]
        shown = [
            f"{prompt}\n({note})" if note else prompt for prompt, (_, note) in zip(prompts, cut, strict=True)
        ]
        text = join_prompts(shown) + "".join(f"\n{line}" for line in strange)
        say(cls.hidden.unique_id, text)
        escaped = [escape_parentheses(kept) for kept, _ in cut]
        return io.NodeOutput(join_prompts(prompts), escaped, ui=ui.PreviewText(text))


def prompts_for(text: str, count: int) -> list[str]:
    """Return the prompts of a widget, one for all of so many images or one for each.

    OSEDiffError for others.
    """
    prompts = split_prompts(text)
    if len(prompts) not in (1, count):
        raise OSEDiffError(
            f"got {len(prompts)} prompts for {count} images: give one text, or one for each image, parted by "
            "lines of three dashes"
        )
    return prompts


def one_by_one(colours: Tensor, text: str, prompt: Callable[[Tensor, str], str]) -> list[str]:
    """Return a prompt for each image of a batch (B, 3, H, W), with a progress bar; Cancel works between two.

    text: the user's own words for all of them, or, parted by lines of three dashes, for each.
    """
    texts = prompts_for(text, len(colours))
    report, prompts = progress_bar(), []
    for one, words in zip(colours.split(1), texts * (len(colours) // len(texts)), strict=True):
        prompts.append(prompt(one, words))
        report(len(prompts), len(colours))
    return prompts

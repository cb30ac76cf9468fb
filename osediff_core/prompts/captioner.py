"""The captioner: a picture described in a sentence by any vision-language model that transformers knows.

The paper compares such descriptions, by LLaVA-1.5, with tags in its Table 4: the results are as detailed, and
take 170 times as long to prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..base.load import resolve_device, resolve_dtype
from ..base.network import import_transformers
from ..color import to_levels
from ..errors import OSEDiffError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

QUESTION = "Describe this photograph in one sentence. Name what is in it, and not how sharp or noisy it is."
LONGEST = 64  # tokens of an answer: about what fits into CLIP's 75


class Captioner:
    """A prompt source (see `prompts`): a description of each picture, with the user's text after it."""

    def __init__(self, model: Any, processor: Any, question: str = QUESTION) -> None:  # noqa: ANN401
        """Put a model of transformers and its processor together.

        question: what the model is asked, where it is one that is asked, that is has a chat template.
        """
        self.model, self.processor, self.question = model, processor, question

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        question: str = QUESTION,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
    ) -> Captioner:
        """Load an image-text-to-text model from a folder, or by its id from the hub's cache.

        Nothing is downloaded. Raises OSEDiffError for what is not there or cannot be loaded.
        """
        device = resolve_device(device)
        model, processor = _load(str(source))
        return cls(model.to(device=device, dtype=resolve_dtype(dtype, device)).eval(), processor, question)

    def __call__(self, lq: Tensor, text: str = "", scale: float = 4.0) -> list[str]:
        """Return "DESCRIPTION, TEXT" for each image of (B, 3, H, W); the model sees it as it is.

        The most likely words are taken, so that the same picture always has the same description.
        """
        answers = [self._describe(picture) for picture in _pictures(lq)]
        return [", ".join(part for part in (answer, text) if part) for answer in answers]

    @torch.no_grad()
    def _describe(self, picture: Image) -> str:
        asked: dict[str, str] = {}
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": self.question}]
            turns = [{"role": "user", "content": content}]
            asked["text"] = self.processor.apply_chat_template(turns, add_generation_prompt=True)
        inputs = self.processor(images=picture, return_tensors="pt", **asked).to(self.model.device)
        inputs = {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=LONGEST)  # (1, L)
        answer = ids[:, inputs["input_ids"].shape[1] :] if asked else ids
        words = self.processor.batch_decode(answer, skip_special_tokens=True)[0]
        return " ".join(words.split()).rstrip(" .")


def _load(source: str) -> tuple[Any, Any]:
    if "AutoModelForImageTextToText" not in dir(import_transformers()):
        raise OSEDiffError("this transformers knows no image-text-to-text models: install 4.46 or later")
    library = import_transformers("AutoModelForImageTextToText", "AutoProcessor")
    try:
        processor = library.AutoProcessor.from_pretrained(source, local_files_only=True)
        return library.AutoModelForImageTextToText.from_pretrained(source, local_files_only=True), processor
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise OSEDiffError(
            f"{source} is not here, or no image-text-to-text model ({first_line(error)}): give its folder, "
            f"or download it first with `hf download {source}`"
        ) from error


def _pictures(lq: Tensor) -> list[Image]:
    """Return images (B, 3, H, W), uint8 or float in [0, 1], as Pillow's."""
    from PIL import Image

    levels = lq if lq.dtype == torch.uint8 else to_levels(lq.float())
    return [Image.fromarray(one.movedim(0, -1).contiguous().cpu().numpy()) for one in levels]

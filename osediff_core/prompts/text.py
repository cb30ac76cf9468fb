"""What the model is told about a picture: the user's words, tags, or a vision-language model's description.

A prompt source is anything that can be called as `PromptSource` says. `plain_text` is the one without a
network; `Tagger` and `Captioner` are the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPTokenizer

MOST_TOKENS = 75  # of CLIP's 77, without those for begin and end
BETWEEN = "\n---\n"
"""What stands between the prompts of several pictures in one text: a line of three dashes."""


class PromptSource(Protocol):
    """What can say what is in pictures."""

    def __call__(self, lq: Tensor, text: str = "", scale: float = 4.0) -> list[str]:
        """Return a prompt for each image of `lq`, (B, 3, H, W), with the user's own `text` in it.

        scale: how much the pictures are going to be enlarged, as `restore` is told.
        """
        ...


def plain_text(lq: Tensor, text: str = "", scale: float = 4.0) -> list[str]:
    """Return the user's text, which may be empty, for every image of a batch."""
    return [text] * len(lq)


def join_tags(tags: Sequence[str], text: str = "") -> str:
    """Return "TAGS, TEXT,", which is what the published test code gives its model, empty text or not."""
    return f"{', '.join(tags)}, {text},"


def join_prompts(prompts: Sequence[str]) -> str:
    """Return the prompts of a batch as one text, to be taken apart by `split_prompts`."""
    return BETWEEN.join(prompts)


def split_prompts(text: str) -> list[str]:
    """Return the prompts of one text, which lines of three dashes part; nearly always there is but one."""
    parts = re.split(r"(?:^|\n)[ \t]*---[ \t]*(?:\n|$)", text)
    return [part.strip("\n") for part in parts] if len(parts) > 1 else [text]


def cut_prompt(prompt: str, count: Callable[[str], int], limit: int = MOST_TOKENS) -> tuple[str, str]:
    """Return as much of a prompt as has `limit` tokens, whole words only, and a note if that is not all.

    count(text): its tokens, without begin and end; CLIP's tokenizers take words one by one.
    """
    total, words = 0, list(re.finditer(r"\S+", prompt))
    for i, word in enumerate(words):
        total += count(word.group())
        if total > limit:
            note = (
                f"cut after {limit} tokens, before {word.group()!r}, {len(words) - i} of {len(words)} words"
            )
            return prompt[: word.start()].rstrip(), note
    return prompt, ""


def token_counter(tokenizer: CLIPTokenizer) -> Callable[[str], int]:
    """Return a function for `cut_prompt` that counts tokens by a tokenizer."""
    return lambda text: len(tokenizer(text, add_special_tokens=False).input_ids)


def escape_parentheses(prompt: str) -> str:
    """Return a prompt whose parentheses ComfyUI's CLIPTextEncode takes as they are, not as weights."""
    return re.sub(r"([()])", r"\\\1", prompt)


def split_words(text: str) -> list[str]:
    """Return the words or phrases that commas or lines part, without blanks around them and empty ones."""
    return [word.strip() for word in re.split(r"[,\n]", text) if word.strip()]

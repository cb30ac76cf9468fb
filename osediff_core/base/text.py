"""What CLIP's text encoder makes of prompts, and of the empty one beforehand.

A base may bring what its text encoder makes of the empty prompt. Then neither encoder nor tokenizer is
loaded, nor the library that both come from, until somebody asks for words.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import OSEDiffError
from ..weights.checkpoint import save_tensors
from ..weights.hashes import fingerprint
from ..weights.tensorfile import TensorFile
from .folder import weight_files

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

LoadText = Callable[[], "tuple[CLIPTextModel, CLIPTokenizer]"]
EMPTY_PROMPT = "empty_prompt.safetensors"
"""The file in the folder of a base."""
EMBEDDING = "embedding"
OF = "text_encoder"
"""Of what the file says of itself: the fingerprint of the text encoder's weights that made it."""

logger = logging.getLogger(__name__)


def embed(texts: Sequence[str], tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> Tensor:
    """Return the text encoder's last hidden states after its final norm, (B, L, D)."""
    length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    tokens = tokenizer(
        list(texts), max_length=length, padding="max_length", truncation=True, return_tensors="pt"
    )
    ids = tokens.input_ids.to(next(text_encoder.parameters()).device)  # (B, L)
    return text_encoder(ids)[0]  # (B, L, D)


@torch.no_grad()
def write_empty_prompt(folder: Path, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
    """Write what a text encoder in float32 makes of the empty prompt into its base, which has it already."""
    embedding = embed([""], tokenizer, text_encoder)  # (1, L, D)
    save_tensors(folder / EMPTY_PROMPT, {EMBEDDING: embedding}, {OF: _made_of(folder)})


def read_empty_prompt(folder: Path, width: int) -> Tensor | None:
    """Return what the base in a folder brings, (1, L, D) float32, or None where it brings nothing.

    Nothing, too, where the base has another text encoder by now. width: D, what the UNet attends to. Raises
    OSEDiffError for a file that is damaged or of another base.
    """
    path = folder / EMPTY_PROMPT
    if not path.exists():
        return None
    file = TensorFile(path)
    shape = file.shapes.get(EMBEDDING, ())
    if len(shape) == 3 and (shape[0], shape[2]) == (1, width):
        embedding = file.read(EMBEDDING).float()
        if embedding.numel() and embedding.isfinite().all():
            if file.metadata.get(OF) == _made_of(folder):
                return embedding
            logger.info("%s was made by another text encoder: the one that is there is asked", path)
            return None
    raise OSEDiffError(
        f"{path} is no embedding of the empty prompt for this base, which is finite, 1 x tokens x {width}: "
        "remove it, and the text encoder is asked; or get the base again"
    )


def _made_of(folder: Path) -> str:
    """Know the weights of the text encoder again, by a sample: reading all takes as long as loading it."""
    return " ".join(fingerprint(path) for path in weight_files(folder / "text_encoder"))

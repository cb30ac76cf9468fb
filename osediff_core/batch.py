"""Restore picture files, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .errors import OSEDiffError
from .files import check_target
from .images import read_image, write_image
from .jobs import Job
from .memory import is_out_of_memory
from .model import OSEDiff
from .prompts import PromptSource, cut_prompt, plain_text, token_counter
from .resize import resize_alpha, target_size
from .restore import Progress, restore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How pictures are restored and written; `restore` and `write_image` say what each means.

    source: what makes each picture's prompt, with the words of `prompt` in it.
    """

    scale: float = 4.0
    prompt: str = ""
    color: str = "adain"
    tile: str | int = "auto"
    overlap: int = 32
    quality: int | None = None
    source: PromptSource = plain_text
    vae: str | int = "auto"
    spill: Path | None = None


def restore_file(
    model: OSEDiff, source: Path, target: Path, settings: Settings, progress: Progress | None = None
) -> None:
    """Restore one picture file: upright, as sRGB, with transparency and EXIF, at exactly the size asked.

    Raises OSEDiffError, naming a file, for what cannot be read, restored or written; nothing is left behind.
    """
    picture = read_image(source)
    size = target_size(picture.rgb.shape[-2], picture.rgb.shape[-1], settings.scale)
    check_target(target, size)
    sr = restore(
        model,
        picture.rgb,
        scale=settings.scale,
        prompt=_prompt(model, picture.rgb, source.name, settings),
        color=settings.color,
        tile=settings.tile,
        overlap=settings.overlap,
        vae=settings.vae,
        spill=settings.spill,
        progress=progress,
    )  # (1, 3, *size)
    alpha = None if picture.alpha is None else resize_alpha(picture.alpha, size)  # (1, 1, *size)
    write_image(target, sr, alpha, picture.exif, quality=settings.quality)


def _prompt(model: OSEDiff, rgb: Tensor, name: str, settings: Settings) -> str:
    """Return the prompt for a picture (1, 3, H, W), and say what it is where nobody typed it, or is cut."""
    prompt = settings.source(rgb, settings.prompt, settings.scale)[0]
    if settings.source is not plain_text:
        logger.info("%s: %s", name, prompt)
    _, note = cut_prompt(prompt, token_counter(model.tokenizer))
    if note:
        logger.warning("the prompt of %s is %s", name, note)
    return prompt


def restore_files(
    model: OSEDiff, jobs: Sequence[Job], settings: Settings, progress: Callable[[Job], Progress | None]
) -> Iterator[tuple[Job, str | None]]:
    """Restore every picture, and yield it with None, or with the reason why it failed, and go on.

    progress(job) is asked for a picture's callback before it is begun. Where there is but one picture, an
    error that nobody foresaw is raised as it is, so that it can be reported.
    """
    for job in jobs:
        reason = None
        try:
            restore_file(model, job.source, job.target, settings, progress(job))
        except OSEDiffError as error:
            reason = str(error)
        except Exception as error:
            reason = _memory(error)
            if reason is None and len(jobs) == 1:
                raise
            reason = reason or f"{type(error).__name__}: {error} (unforeseen; alone, it is shown in full)"
        yield job, reason


def _memory(error: Exception) -> str | None:
    """What to say where memory ran out, and None for other errors."""
    if is_out_of_memory(error):
        return (
            "there is not enough memory for this picture; take a smaller scale, or cut the picture into parts"
        )
    return None

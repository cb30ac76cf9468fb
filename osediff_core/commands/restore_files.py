"""Restore picture files: one at a time, while the next is read and the last is written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ..device.memory import in_words
from ..errors import OSEDiffError
from ..model import OSEDiff
from ..pictures.blocks import losses
from ..pictures.deep import ENCODERS
from ..pictures.files import check_target, format_of
from ..pictures.images import Picture, read_image, write_image
from ..pictures.jobs import Job
from ..pipeline.run import Progress, restore
from ..prompts.text import PromptSource, cut_prompt, plain_text, token_counter
from ..resize import resize_alpha, target_size
from ..sizes import FOUR_TIMES, Size

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How pictures are restored and written; `restore` and `write_image` say what each means.

    source: what makes each picture's prompt, with the words of `prompt` in it. strip: what the file said
    beside its pixels (EXIF, XMP, text, ...) is not written, nor is `made`, what a result says of its making.
    """

    size: Size = FOUR_TIMES
    prompt: str = ""
    color: str = "adain"
    tile: str | int = "auto"
    overlap: int = 32
    quality: int | None = None
    source: PromptSource = plain_text
    vae: str | int = "auto"
    spill: Path | None = None
    detail: float = 1.0
    strip: bool = False
    made: str | None = None


def _restored(
    model: OSEDiff,
    job: Job,
    settings: Settings,
    progress: Progress | None,
    said: set[str],
    picture: Picture,
) -> Callable[[], None]:
    """Restore one picture, and return what writes it. said: what this run lost and told of already."""
    height, width = picture.rgb.shape[-2:]
    scale, size = settings.size.of(height, width)
    check_target(job.target, size)
    sr = restore(
        model,
        picture.rgb,
        alpha=picture.alpha,
        scale=scale,
        middle=size,
        prompt=_prompt(model, picture.rgb, scale, job.source.name, settings),
        color=settings.color,
        tile=settings.tile,
        overlap=settings.overlap,
        detail=settings.detail,
        vae=settings.vae,
        spill=settings.spill,
        progress=progress,
        dtype=torch.float32 if picture.deep else torch.uint8,
    )  # (1, 3, *size)
    resized = target_size(height, width, scale)
    alpha = None if picture.alpha is None else resize_alpha(picture.alpha, resized, size)  # (1, 1, *size)
    write = partial(write_image, job.target, sr, alpha, grey=picture.grey, quality=settings.quality)
    write = partial(write, deep=picture.deep)
    if settings.strip:
        return write
    _say_losses(picture, job, said)
    return partial(write, exif=picture.exif, notes=replace(picture.notes, made=settings.made))


def _say_losses(picture: Picture, job: Job, said: set[str]) -> None:
    """Say what of the file will not be in the result: each kind once, at the first picture that has it."""
    for what in losses(picture.notes, picture.exif, format_of(job.target)):
        if what not in said:
            said.add(what)
            logger.warning("%s: not carried over (said once a run): %s", job.source.name, what)


def _prompt(model: OSEDiff, rgb: Tensor, scale: float, name: str, settings: Settings) -> str:
    """Return the prompt for a picture (1, 3, H, W), and say what it is where nobody typed it, or is cut."""
    prompt = settings.source(rgb, settings.prompt, scale)[0]
    if settings.source is not plain_text:
        logger.info("%s: %s", name, prompt)
    note = cut_prompt(prompt, token_counter(model.tokenizer))[1] if prompt else ""
    if note:
        logger.warning("the prompt of %s is %s", name, note)
    return prompt


def restore_files(
    model: OSEDiff, jobs: Sequence[Job], settings: Settings, progress: Callable[[Job], Progress | None]
) -> Iterator[tuple[Job, str | None]]:
    """Restore every picture, and yield it with None, or with the reason why it failed, and go on.

    A picture is yielded, in the order of `jobs`, when it is written; at most three are in memory.
    progress(job) is asked for a picture's callback before it is begun. Where there is but one picture, an
    error that nobody foresaw is raised as it is, so that it can be reported. Before an interrupt goes on up,
    the last picture that was restored is written and yielded.
    """
    alone, said = len(jobs) == 1, set[str]()
    last: tuple[Job, Future[str | None]] | None = None
    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as writer:
        ahead = [reader.submit(_read, job) for job in jobs[:1]]
        try:
            for job, following in zip_longest(jobs, jobs[1:]):
                work = partial(_restored, model, job, settings, progress(job), said)
                picture = _attempt(ahead.pop().result, alone)
                if following is not None:
                    ahead.append(reader.submit(_read, following))
                written = _hand_on(writer, work, picture, alone)
                before, last = last, (job, written)
                if before is not None:
                    yield before[0], before[1].result()
        except KeyboardInterrupt:
            if last is not None:
                yield last[0], last[1].result()
            raise
        if last is not None:
            yield last[0], last[1].result()


def _read(job: Job) -> Picture:
    """Read a picture with as many bits as its result can hold."""
    return read_image(job.source, full=format_of(job.target) in ENCODERS)


def _hand_on(
    writer: ThreadPoolExecutor,
    work: Callable[[Picture], Callable[[], None]],
    picture: Picture | str,
    alone: bool,
) -> Future[str | None]:
    """Restore a picture and let the writer write it; what is promised is the reason of a failure, or None."""
    write = picture if isinstance(picture, str) else _attempt(partial(work, picture), alone)
    return writer.submit(str, write) if isinstance(write, str) else writer.submit(_attempt, write, alone)


def _attempt(work: Callable[[], Result], alone: bool) -> Result | str:
    """Return what `work` gives, or the reason why it failed; the unforeseen is raised for one that is alone.

    No error is kept: it would hold the memory of what failed.
    """
    try:
        return work()
    except OSEDiffError as error:
        return str(error)
    except Exception as error:
        said = in_words(error)
        if said is not error:
            return str(said)
        if alone:
            raise
        return f"{type(error).__name__}: {error} (unforeseen; alone, it is shown in full)"

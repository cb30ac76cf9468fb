"""What a person reads on a red node: one sentence, with files by the names that the lists show."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import folder_paths

from ..osediff_core.device.memory import NotEnoughMemoryError, in_words
from ..osediff_core.errors import OSEDiffError
from .paths import TAGGER_FOLDER, WEIGHTS_FOLDER

Given = ParamSpec("Given")
Result = TypeVar("Result")

FOLDERS = ("checkpoints", "diffusers", WEIGHTS_FOLDER, TAGGER_FOLDER)


class _ShownError(OSEDiffError):
    """ComfyUI puts module and name before the text: without a module, "OSEDiff: the checkpoint ..."."""

    __module__, __qualname__ = "builtins", "OSEDiff"


class _ShownMemoryError(_ShownError, NotEnoughMemoryError):
    """ComfyUI unloads all models after this one."""

    __module__, __qualname__ = "builtins", "OSEDiff"


def in_a_sentence(execute: Callable[Given, Result]) -> Callable[Given, Result]:
    """Make the errors of the core and of allocators readable; whatever else a node raises is a defect."""

    @wraps(execute)
    def run(*args: Given.args, **inputs: Given.kwargs) -> Result:
        try:
            return execute(*args, **inputs)
        except Exception as error:
            said = in_words(error)
            if not isinstance(said, OSEDiffError):
                raise
            kind = _ShownMemoryError if isinstance(said, NotEnoughMemoryError) else _ShownError
            raise kind(without_folders(str(said))) from error

    return run


def without_folders(text: str) -> str:
    """Return a text with the files of ComfyUI's model folders by their names there."""
    known = [folder for folder in FOLDERS if folder in folder_paths.folder_names_and_paths]
    places = [place + os.sep for folder in known for place in folder_paths.get_folder_paths(folder)]
    for place in sorted(places, key=len, reverse=True):
        text = text.replace(place, "")
    return text

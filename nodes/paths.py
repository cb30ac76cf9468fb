"""Where models are found: ComfyUI's folders, and the demo that comes with the pack."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..osediff_core.base import DEMO_BASE, DEMO_WEIGHTS
from ..osediff_core.errors import OSEDiffError
from ..osediff_core.folder import FOLDERS

WEIGHTS_FOLDER = "osediff"
WEIGHTS_SUFFIXES = {".safetensors", ".pkl"}
DEMO = "demo (comes with the pack)"


def register_model_folder() -> None:
    """Make `models/osediff` known to ComfyUI, after the places that extra_model_paths.yaml names for it."""
    default = os.path.join(folder_paths.models_dir, WEIGHTS_FOLDER)
    known = folder_paths.folder_names_and_paths.get(WEIGHTS_FOLDER, ([], set()))[0]
    places = [*known, *([] if default in known else [default])]
    folder_paths.folder_names_and_paths[WEIGHTS_FOLDER] = (places, set(WEIGHTS_SUFFIXES))


def base_paths() -> dict[str, Path]:
    """Every base that can be loaded: its name in the list, and its folder.

    Besides the demo these are the diffusers folders under `models/diffusers` that have the five parts that
    OSEDiff is built from. Bases with a second text encoder are another kind of model and are not listed.
    """
    found = {DEMO: DEMO_BASE}
    for root in folder_paths.get_folder_paths("diffusers"):
        for folder in sorted(_base_folders(Path(root))):
            found.setdefault(folder.relative_to(root).as_posix(), folder)
    return found


def _base_folders(root: Path) -> list[Path]:
    found = []
    for here, folders, _files in os.walk(root, followlinks=True):
        if "unet" in folders:
            if all(part in folders for part in FOLDERS) and "text_encoder_2" not in folders:
                found.append(Path(here))
            folders.clear()  # a base is never inside another one
    return [folder for folder in found if folder != root]


def weights_paths() -> dict[str, Path]:
    """Every OSEDiff checkpoint that can be chosen: its name in the list, and its file."""
    found = {DEMO: DEMO_WEIGHTS}
    for name in folder_paths.get_filename_list(WEIGHTS_FOLDER):
        found[name] = Path(folder_paths.get_full_path_or_raise(WEIGHTS_FOLDER, name))
    return found


def resolve(name: str, paths: dict[str, Path], what: str) -> Path:
    """The path behind a name of one of the lists; raises OSEDiffError where it is gone."""
    if name not in paths:
        raise OSEDiffError(f"the {what} {name!r} is not there any more: choose one of {', '.join(paths)}")
    return paths[name]


def fingerprint(path: Path) -> tuple[tuple[str, int, int], ...]:
    """(path, mtime in ns, size) of a file, or of all files of a folder: it changes when one is replaced."""
    files = [path]
    if path.is_dir():
        walk = os.walk(path, followlinks=True)
        files = sorted(Path(here, name) for here, _folders, names in walk for name in names)
    stats = [(file, file.stat()) for file in files]
    return tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats)

"""Where models are found: ComfyUI's folders, and the demo that comes with the pack."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import comfy
import folder_paths

from ..osediff_core.base.folder import FOLDERS
from ..osediff_core.base.hub_cache import repo_id, snapshots
from ..osediff_core.base.load import DEMO_BASE, DEMO_WEIGHTS, SINGLE_FILE_SUFFIXES
from ..osediff_core.errors import OSEDiffError

Place = TypeVar("Place", Path, "Path | None")
WEIGHTS_FOLDER = "osediff"
WEIGHTS_SUFFIXES = {".safetensors", ".pkl"}
TAGGER_FOLDER = "osediff_dape"
DECODER_FOLDER = "osediff_decoder"
OTHERS_SUFFIXES = {".safetensors", ".pth"}  # of taggers and decoders
FOLDER_SUFFIXES = {
    WEIGHTS_FOLDER: WEIGHTS_SUFFIXES,
    TAGGER_FOLDER: OTHERS_SUFFIXES,
    DECODER_FOLDER: OTHERS_SUFFIXES,
}
DEMO = "demo (comes with the pack)"
HUB = "(hub cache)"
NO_TAGGER = "(none in models/osediff_dape: make one with osediff convert-dape, then press R)"


def register_model_folder() -> None:
    """Make our folders of `models` known to ComfyUI, after the places that extra_model_paths.yaml names."""
    for folder, suffixes in FOLDER_SUFFIXES.items():
        default = os.path.join(folder_paths.models_dir, folder)
        known = folder_paths.folder_names_and_paths.get(folder, ([], set()))[0]
        places = [*known, *([] if default in known else [default])]
        folder_paths.folder_names_and_paths[folder] = (places, set(suffixes))


def base_paths() -> dict[str, Path]:
    """Every base that can be loaded: its name in the list, and its folder.

    Besides the demo these are the diffusers folders under `models/diffusers`, every file of
    `models/checkpoints`, as ComfyUI's own loaders list them, and the diffusers folders in the hub's cache. No
    file is opened for the list: one that is another kind of model is refused by name when it is loaded.
    """
    found = {DEMO: DEMO_BASE}
    for root in folder_paths.get_folder_paths("diffusers"):
        for folder in sorted(_base_folders(Path(root))):
            found.setdefault(folder.relative_to(root).as_posix(), folder)
    for name in folder_paths.get_filename_list("checkpoints"):
        if name.lower().endswith(SINGLE_FILE_SUFFIXES):
            path = folder_paths.get_full_path("checkpoints", name)
            if path is not None:  # the list is remembered, and the file may be gone since
                found.setdefault(name, Path(path))
    for folder in snapshots():
        if _is_base(entry.name for entry in folder.iterdir()):
            found.setdefault(f"{repo_id(folder)} {HUB}", folder)
    return found


def vocabulary_folder() -> Path | None:
    """Return the folder of CLIP's vocabulary that ComfyUI brings for its own text encoders."""
    places = (Path(place) / "sd1_tokenizer" for place in comfy.__path__)
    return next((place for place in places if (place / "vocab.json").is_file()), None)


def _base_folders(root: Path) -> list[Path]:
    found = []
    for here, folders, _files in os.walk(root, followlinks=True):
        if "unet" in folders:
            if _is_base(folders):
                found.append(Path(here))
            folders.clear()  # a base is never inside another one
    return [folder for folder in found if folder != root]


def _is_base(names: Iterable[str]) -> bool:
    """Whether a folder has the five parts of a base; one with a second text encoder is another kind."""
    there = set(names)
    return there.issuperset(FOLDERS) and "text_encoder_2" not in there


def weights_paths() -> dict[str, Path]:
    """Every OSEDiff checkpoint that can be chosen: its name in the list, and its file."""
    return {DEMO: DEMO_WEIGHTS, **_listed(WEIGHTS_FOLDER)}


def tagger_paths() -> dict[str, Path]:
    """Every file that may be a tagger's: its name in the list, and its place."""
    return _listed(TAGGER_FOLDER)


def decoder_paths() -> dict[str, Path]:
    """Every file that may be a decoder's: its name in the list, and its place."""
    return _listed(DECODER_FOLDER)


def _listed(folder: str) -> dict[str, Path]:
    names = folder_paths.get_filename_list(folder)
    return {name: Path(folder_paths.get_full_path_or_raise(folder, name)) for name in names}


def resolve(name: str, paths: Mapping[str, Place], what: str) -> Place:
    """Return the path behind a name of one of the lists; raises OSEDiffError where it is gone."""
    if not paths:
        raise OSEDiffError(f"there is no {what} {NO_TAGGER}")
    if name not in paths:
        raise OSEDiffError(f"the {what} {name!r} is not there: choose one of {', '.join(paths)}")
    return paths[name]


def fingerprint(path: Path) -> tuple[tuple[str, int, int], ...]:
    """(path, mtime in ns, size) of a file, or of all files of a folder: it changes when one is replaced."""
    files = [path]
    if path.is_dir():
        walk = os.walk(path, followlinks=True)
        files = sorted(Path(here, name) for here, _folders, names in walk for name in names)
    stats = [(file, file.stat()) for file in files]
    return tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats)

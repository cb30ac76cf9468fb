"""Get published weights: what is wanted, where it goes, what is there already, and what is left to download.

Nothing here runs by itself: only `osediff fetch` calls it, after the user has agreed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import OSEDiffError
from . import download, hub
from .published import KnownFile, Mirror, PublishedFiles


@dataclass(frozen=True)
class Place:
    """Where files go: ComfyUI's folders, or one folder, or, with neither, the hub's cache."""

    comfyui: Path | None = None
    folder: Path | None = None

    def of(self, source: PublishedFiles, file: KnownFile) -> Path | None:
        """Return the path of a file, None in the hub's cache, which finds names by itself."""
        root = self.root(source)
        if root is None:
            return None
        return root / file.path if source.tree else root / Path(file.path).name

    def root(self, source: PublishedFiles) -> Path | None:
        """Return the folder that a source's files are in, None for the hub's cache."""
        if self.comfyui is not None:
            folder = self.comfyui / "models" / source.place
        elif self.folder is not None:
            folder = self.folder
        else:
            return None
        return folder / source.tree if source.tree else folder

    def words(self, source: PublishedFiles) -> str:
        """Return the folder as a user would name it."""
        return str(self.root(source) or "the hub's cache (HF_HOME)")


@dataclass(frozen=True)
class PlannedFile:
    """One file of a plan. path: where it is or goes, None before it is in the hub's cache.

    remote: what the hub says of it, None where it is not asked. there: how the file that is there was
    checked, None where it is missing.
    """

    source: PublishedFiles
    file: KnownFile
    path: Path | None
    remote: hub.Remote | None = None
    there: str | None = None


def plan(source: PublishedFiles, place: Place) -> list[PlannedFile]:
    """Return all files of a source, with what is there already and what the hub says of the rest.

    Raises OSEDiffError where a file that is there is another one, where files are missing and no mirror has
    them, and where no network is allowed.
    """
    items = [_look(source, file, place) for file in source.files]
    missing = [item for item in items if item.there is None]
    if not missing:
        return items
    if not source.mirrors:
        raise OSEDiffError(by_hand(source, place))
    if hub.is_offline():
        raise OSEDiffError(
            f"HF_HUB_OFFLINE forbids the network, and {Path(missing[0].file.path).name} is not in "
            f"{place.words(source)}: unset it, or bring the file by hand from {source.page}"
        )
    return _ask_mirrors(items, source, place)


def by_hand(source: PublishedFiles, place: Place) -> str:
    """Say where a file that the hub does not have is found, and where to put it."""
    names = " and ".join(Path(file.path).name for file in source.files)
    root = place.root(source)
    folder = str(root) if root else f"models/{source.place} of ComfyUI, or anywhere if you give its path"
    return f"{names} cannot be downloaded from the hub: get it from {source.page} and put it into {folder}"


def bring(items: Sequence[PlannedFile]) -> Iterator[tuple[Path, str]]:
    """Download what a plan lacks; yield the path of every file, and how it was checked."""
    for item in items:
        if item.there is not None and item.path is not None:
            download.forget_parts(item.path.resolve())
            yield item.path, f"there already; {item.there}"
        elif item.remote is not None and item.path is not None:
            yield item.path, download.download(item.remote, item.file, item.path)
        elif item.remote is not None:
            yield download.into_cache(item.remote, item.file)


def _look(source: PublishedFiles, file: KnownFile, place: Place, mirror: Mirror | None = None) -> PlannedFile:
    """Return a file as it is on this machine; with a mirror, in that repository's part of the hub's cache."""
    path = place.of(source, file)
    if path is None:
        mirrors = [mirror] if mirror else source.mirrors
        path = next(filter(None, (download.cached(one, file) for one in mirrors)), None)
    if path is None or not path.exists():
        return PlannedFile(source, file, path)
    if not path.is_file():
        raise OSEDiffError(f"{path} is no file, and one is to be written there: move it away")
    return PlannedFile(source, file, path, there=download.check(path, file))


def _ask_mirrors(items: Sequence[PlannedFile], source: PublishedFiles, place: Place) -> list[PlannedFile]:
    """Take all missing files from the first mirror that has them all."""
    reasons = []
    for mirror in source.mirrors:
        try:
            return [_ask(item, mirror, place) for item in items]
        except hub.MirrorError as error:
            reasons.append(str(error))
    raise OSEDiffError(f"{'; and '.join(reasons)}; look at {source.page}, and give the path of what you have")


def _ask(item: PlannedFile, mirror: Mirror, place: Place) -> PlannedFile:
    source, file = item.source, item.file
    if item.there is None or (place.root(source) is None and download.cached(mirror, file) is None):
        return PlannedFile(source, file, place.of(source, file), hub.describe(mirror, file))
    return item

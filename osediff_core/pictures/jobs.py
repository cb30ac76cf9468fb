"""Which pictures a command line means, and where each of them goes. Looks at names only; opens no picture."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..errors import OSEDiffError
from .files import PICTURES, WRITABLE, check_target


@dataclass(frozen=True)
class Job:
    """One picture to restore: the file to read and the file to write."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Jobs:
    """What is to be done, and how many pictures of a folder are there already."""

    todo: list[Job]
    already: int = 0


def find_jobs(
    source: str,
    target: str,
    suffix: str | None,
    *,
    overwrite: bool,
    recursive: bool,
    share: tuple[int, int] = (0, 1),
    look_only: bool = False,
) -> Jobs:
    """Return the pictures to restore; make the folders that they go to, and see that these can be written.

    source: a file or a folder. target: a file, or a folder: one that exists, or a name without an ending or
    with a slash behind it. suffix (".png"): the format in folders; None means PNG, or what a file's name
    says. share (rank, count): every count-th picture, for processes that divide a folder; which ones does not
    depend on what is there already. look_only: make no folder and try none. Raises OSEDiffError where nothing
    should be begun.
    """
    place = Path(source)
    try:
        if not place.exists():
            raise OSEDiffError(f"there is no file or folder {source}")
        if place.is_dir():
            every = _folder(place, Path(target), suffix or ".png", recursive=recursive)
            return _left(every[share[0] :: share[1]], overwrite=overwrite, look_only=look_only)
        one = _file(place, target, suffix)
        return Jobs([]) if share[0] else _single(place, one, overwrite=overwrite, look_only=look_only)
    except OSError as error:
        where = error.filename or target
        raise OSEDiffError(f"{where} cannot be used: {error.strerror or error}") from error


def _file(source: Path, target: str, suffix: str | None) -> Path:
    """The file that one picture goes to."""
    path = Path(target)
    is_folder = path.is_dir() or not path.suffix or target.endswith(("/", os.sep))
    if is_folder:
        return path / (source.stem + (suffix or ".png"))
    if suffix and WRITABLE.get(path.suffix.lower()) != WRITABLE[suffix]:
        raise OSEDiffError(f"--format {suffix[1:]} and the name {path.name} disagree; leave one of them out")
    return path


def _single(source: Path, target: Path, *, overwrite: bool, look_only: bool) -> Jobs:
    if target.exists() and target.samefile(source):
        raise OSEDiffError(f"{source} would be written over itself; name another file for the result")
    if target.is_file() and not overwrite:
        raise OSEDiffError(f"{target} exists; name another file, or say --overwrite to replace it")
    if not look_only:
        target.parent.mkdir(parents=True, exist_ok=True)
        check_target(target)
    return Jobs([Job(source, target)])


def _folder(source: Path, target: Path, suffix: str, *, recursive: bool) -> list[Job]:
    """Every picture of a folder, whether its result is there or not."""
    if not target.is_dir() and (target.exists() or target.suffix.lower() in WRITABLE):
        raise OSEDiffError(f"{source} is a folder, so that {target} must be one too; it names a file")
    if target.resolve() == source.resolve():
        raise OSEDiffError(f"{source} is where the pictures come from; name another folder for the results")
    found = _pictures(source, target, recursive=recursive)
    if not found:
        deeper = "" if recursive else " (folders inside it are looked at with --recursive)"
        raise OSEDiffError(f"{source} holds no picture that ends in {', '.join(PICTURES)}{deeper}")
    jobs = _targets(found, source, target, suffix)
    originals = {path.resolve() for path in found}
    for job in jobs:
        if job.target.resolve() in originals:
            raise OSEDiffError(f"{job.source} would be written over {job.target}; name another folder")
    return jobs


def _left(jobs: list[Job], *, overwrite: bool, look_only: bool) -> Jobs:
    """What is to be done of these, with the folders that it needs."""
    left = [job for job in jobs if overwrite or not job.target.exists()]
    for folder in sorted({job.target.parent for job in left if not look_only}):
        folder.mkdir(parents=True, exist_ok=True)
    if left and not look_only:
        check_target(left[0].target)
    return Jobs(left, already=len(jobs) - len(left))


def _pictures(source: Path, target: Path, *, recursive: bool) -> list[Path]:
    """The pictures of a folder in the order of their names, without hidden ones and earlier results."""
    results = target.resolve()
    inside = source.resolve() in results.parents
    return sorted(
        path
        for path in (source.rglob("*") if recursive else source.iterdir())
        if path.suffix.lower() in PICTURES
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
        and not (inside and results in path.resolve().parents)
        and path.is_file()
    )


def _targets(found: list[Path], source: Path, target: Path, suffix: str) -> list[Job]:
    """Give every picture a result of its own: a.jpg beside a.png become a_jpg and a_png, newly ended."""
    names = [path.relative_to(source).with_suffix(suffix) for path in found]
    count = Counter(_key(name) for name in names)
    for i, path in enumerate(found):
        if count[_key(names[i])] > 1:
            names[i] = names[i].with_name(f"{path.stem}_{path.suffix[1:]}{suffix}")
    owner: dict[str, Path] = {}
    for path, name in zip(found, names, strict=True):
        other = owner.setdefault(_key(name), path)
        if other != path:
            raise OSEDiffError(f"{other} and {path} would both become {target / name}; rename one of them")
    return [Job(path, target / name) for path, name in zip(found, names, strict=True)]


def _key(name: Path) -> str:
    return name.as_posix().casefold()  # many file systems take A.png and a.png for one name

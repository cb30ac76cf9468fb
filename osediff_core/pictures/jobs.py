"""Which pictures a command line means, and where each of them goes; decodes no picture."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import OSEDiffError
from ..sizes import FOUR_TIMES, Size
from ..whole_files import reason, sweep
from .files import PICTURES, WRITABLE, check_target
from .find import INSIDE, find_files, in_words
from .results import earlier_results, is_cut, result_stems, sides


@dataclass(frozen=True)
class Job:
    """One picture to restore: the file to read and the file to write."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Jobs:
    """What is to be done, and what is not.

    there: those of a folder whose results are there already. other_size: how many of these are not as large
    as `size` would make them. left_out: what else the folder holds, in words.
    """

    todo: list[Job]
    there: list[Job] = field(default_factory=list)
    other_size: int = 0
    left_out: str = ""

    @property
    def already(self) -> int:
        """How many results of a folder are there already."""
        return len(self.there)


def find_jobs(
    source: str,
    target: str,
    suffix: str | None,
    *,
    overwrite: bool,
    recursive: bool,
    size: Size = FOUR_TIMES,
    share: tuple[int, int] = (0, 1),
    look_only: bool = False,
) -> Jobs:
    """Return the pictures to restore; make the folders that they go to, and see that these can be written.

    source: a file or a folder. target: a file, or a folder: one that exists, or a name without an ending or
    with a slash behind it. suffix (".png"): the format in folders; None means PNG, or what a file's name
    says. An empty or cut result counts as none. size: tells results that are there at another. share (rank,
    count): every count-th picture, for processes that divide a folder; which ones does not depend on what is
    there already. look_only: make no folder and try none. Raises OSEDiffError where nothing should be begun.
    """
    place = Path(source)
    try:
        if place.is_dir():
            every, left_out = _folder(place, Path(target), suffix or ".png", recursive=recursive)
            mine = every[share[0] :: share[1]]
            return _left(mine, left_out, size, overwrite=overwrite, look_only=look_only)
        if not place.exists():
            raise OSEDiffError(f"there is no file or folder {source}")
        if not place.is_file():
            raise OSEDiffError(f"{source} is a pipe, socket or device; name a picture file or a folder")
        one = _file(place, target, suffix)
        return Jobs([]) if share[0] else _single(place, one, size, overwrite=overwrite, look_only=look_only)
    except OSError as error:
        where = error.filename or target
        raise OSEDiffError(f"{where} cannot be used: {reason(error)}") from error


def _file(source: Path, target: str, suffix: str | None) -> Path:
    """The file that one picture goes to."""
    path = Path(target)
    is_folder = path.is_dir() or not path.suffix or target.endswith(("/", os.sep))
    if is_folder:
        return path / (source.stem + (suffix or ".png"))
    if suffix and WRITABLE.get(path.suffix.lower()) != WRITABLE[suffix]:
        raise OSEDiffError(f"--format {suffix[1:]} and the name {path.name} disagree; leave one of them out")
    return path


def _single(source: Path, target: Path, size: Size, *, overwrite: bool, look_only: bool) -> Jobs:
    if target.exists() and target.samefile(source):
        raise OSEDiffError(f"{source} would be written over itself; name another file for the result")
    if _is_there(target) and not overwrite:
        other = " at another size" if _differs(source, target, size) else ""
        raise OSEDiffError(f"{target} exists{other}; name another file, or say --overwrite to replace it")
    if not look_only:
        _prepare(target.parent)
        check_target(target)
    return Jobs([Job(source, target)])


def _folder(source: Path, target: Path, suffix: str, *, recursive: bool) -> tuple[list[Job], str]:
    """Every picture of a folder, whether its result is there or not; and what is left out, in words."""
    if not target.is_dir() and (target.exists() or target.suffix.lower() in WRITABLE):
        raise OSEDiffError(f"{source} is a folder, so that {target} must be one too; it names a file")
    if os.path.realpath(target) == os.path.realpath(source):
        raise OSEDiffError(f"{source} is where the pictures come from; name another folder for the results")
    found, left_out = _pictures(source, target, recursive=recursive)
    if not found:
        besides = f"; left out: {left_out}" if left_out else ""
        raise OSEDiffError(f"{source} holds no picture that ends in {', '.join(PICTURES)}{besides}")
    jobs = _targets(found, source, target, suffix)
    originals = {os.path.realpath(path) for path in found}
    for job in jobs:
        if os.path.realpath(job.target) in originals:
            raise OSEDiffError(f"{job.source} would be written over {job.target}; name another folder")
    return jobs, left_out


def _left(jobs: list[Job], left_out: str, size: Size, *, overwrite: bool, look_only: bool) -> Jobs:
    """What is to be done of these, with the folders that it needs."""
    there = [] if overwrite else [job for job in jobs if _is_there(job.target)]
    done = set(there)
    left = [job for job in jobs if job not in done]
    for folder in sorted({job.target.parent for job in left if not look_only}):
        _prepare(folder)
    if left and not look_only:
        check_target(left[0].target)
    other = sum(_differs(job.source, job.target, size) for job in there)
    return Jobs(left, there, other, left_out)


def _prepare(folder: Path) -> None:
    """Make a folder for results, and take away what a killed run left in it."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)


def _is_there(target: Path) -> bool:
    """Whether a result is there that is neither empty nor cut, as far as it can be read."""
    try:
        return target.is_file() and not is_cut(target)
    except OSError:
        return True


def _differs(source: Path, target: Path, size: Size) -> bool:
    """Whether a result that is there has another size than `size` gives; False where nobody can tell."""
    before, after = sides(source), sides(target)
    if before is None or after is None:
        return False
    try:
        return after != size.of(*before)[1]
    except OSEDiffError:  # it would have to shrink, which is said of the picture when its turn comes
        return True


def _pictures(source: Path, target: Path, *, recursive: bool) -> tuple[list[Path], str]:
    """The pictures of a folder in the order of their names, and in words what is left out."""
    found = find_files(source, PICTURES, recursive=recursive, apart=target)
    results = earlier_results(found.files, source)
    words = [in_words(found.left_out)] if found.left_out.total() else []
    if found.left_out[INSIDE]:
        words.append("--recursive looks into folders")
    if results:
        words.append(f"{len(results)} that earlier runs made of others; to restore them, name their folder")
    return [path for path in found.files if path not in results], "; ".join(words)


def _targets(found: list[Path], source: Path, target: Path, suffix: str) -> list[Job]:
    """Give every picture a result of its own: a.jpg beside a.png become a_jpg and a_png, newly ended.

    Where those are taken too, as by a.jpg beside A.JPG, a number follows.
    """
    plain = [path.relative_to(source).with_suffix(suffix) for path in found]
    count = Counter(map(_key, plain))
    taken = {key for key, times in count.items() if times == 1}
    names: list[Path] = []
    for path, name in zip(found, plain, strict=True):
        if count[_key(name)] > 1:
            stem, number = result_stems(path)[1], 1
            name = name.with_name(stem + suffix)
            while _key(name) in taken:
                number += 1
                name = name.with_name(f"{stem}_{number}{suffix}")
            taken.add(_key(name))
        names.append(name)
    return [Job(path, target / name) for path, name in zip(found, names, strict=True)]


def _key(name: Path) -> str:
    """What many file systems take for one name: A.png and a.png, and both spellings of an accent."""
    return unicodedata.normalize("NFC", name.as_posix().casefold())

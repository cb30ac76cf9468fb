"""Which pictures a command line means, and where each of them goes; decodes no picture."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import OSEDiffError
from ..whole_files import reason, sweep
from .files import PICTURES, WRITABLE, check_target
from .find import INSIDE, find_files, in_words
from .naming import PLAIN, Naming
from .results import earlier_results, is_cut, result_stems


@dataclass(frozen=True)
class Job:
    """One picture to restore: the file to read and the file to write."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Jobs:
    """What is to be done, and what is not.

    there: those of a folder whose results are there already. otherwise: how many of these were made in
    another way, by what is different. left_out: what else the folder holds, in words.
    """

    todo: list[Job]
    there: list[Job] = field(default_factory=list)
    otherwise: Counter[str] = field(default_factory=Counter[str])
    left_out: str = ""

    @property
    def already(self) -> int:
        """How many results of a folder are there already."""
        return len(self.there)


ALL, CHANGED = "all", "changed"
"""Results that are there and are made again: all, or those that were made otherwise."""
Compare = Callable[[Job], str]
"""Says how a result that is there was made otherwise than it would be now; "" where nothing is known."""


@dataclass(frozen=True)
class Rules:
    """How pictures become jobs.

    overwrite: which results that are there are made again: None, ALL, or CHANGED, which `compare` finds to be
    made otherwise. An empty or cut result counts as none. recursive: into the folders inside. share (rank,
    count): every count-th picture, for processes that divide them; which ones does not depend on what is
    there already. look_only: make no folder and try none.
    """

    naming: Naming = PLAIN
    overwrite: str | None = None
    recursive: bool = False
    compare: Compare = lambda job: ""
    share: tuple[int, int] = (0, 1)
    look_only: bool = False


def find_jobs(source: str, target: str, rules: Rules) -> Jobs:
    """Return the pictures to restore; make the folders that they go to, and see that these can be written.

    source: a file or a folder. target: a file, or a folder: one that exists, or a name without an ending or
    with a slash behind it. Raises OSEDiffError where nothing should be begun.
    """
    try:
        place = _existing(source)
        if place.is_dir():
            return _left(*_folder(place, Path(target), rules), rules)
        one = _file(place, target, rules.naming)
        return Jobs([]) if rules.share[0] else _single(place, one, rules)
    except OSError as error:
        raise _unusable(error, target) from error


def find_all(sources: Sequence[str], target: str, rules: Rules) -> Jobs:
    """Return the pictures of several files, folders and patterns ("*.jpg"), which all go to one folder.

    Files go there by their names, and what a folder holds in a folder of its name, where there are several.
    Otherwise as `find_jobs`; what is there already is no mistake.
    """
    try:
        places = [place for source in sources for place in _matching(source)]
        if len(places) == 1 and places[0].is_dir():
            return _left(*_folder(places[0], Path(target), rules), rules)
        return _left(*_several(places, Path(target), rules), rules)
    except OSError as error:
        raise _unusable(error, target) from error


def _unusable(error: OSError, target: str) -> OSEDiffError:
    return OSEDiffError(f"{error.filename or target} cannot be used: {reason(error)}")


def _matching(source: str) -> list[Path]:
    """Return the file or folder of a name, or those of a pattern, which not every shell unfolds."""
    if os.path.lexists(source) or not glob.has_magic(source):
        return [_existing(source)]
    found = [Path(name) for name in sorted(glob.glob(source, recursive=True))]
    pictures = [path for path in found if path.is_dir() or path.suffix.lower() in PICTURES]
    if not pictures:
        raise OSEDiffError(f"no picture matches {source}; look at the folder, or name a file")
    return pictures


def _existing(source: str) -> Path:
    place = Path(source)
    if not place.exists():
        raise OSEDiffError(f"there is no file or folder {source}")
    if not place.is_file() and not place.is_dir():
        raise OSEDiffError(f"{source} is a pipe, socket or device; name a picture file or a folder")
    return place


def _file(source: Path, target: str, naming: Naming) -> Path:
    """Return the file that one picture goes to."""
    path = Path(target)
    is_folder = path.is_dir() or not path.suffix or target.endswith(("/", os.sep))
    if is_folder:
        return path / naming.of(source)
    suffix = naming.suffix and naming.suffix_of(source)
    if suffix and WRITABLE.get(path.suffix.lower()) != WRITABLE[suffix]:
        raise OSEDiffError(f"--format {suffix[1:]} and the name {path.name} disagree; leave one of them out")
    return path


def _single(source: Path, target: Path, rules: Rules) -> Jobs:
    job = Job(source, target)
    if target.exists() and target.samefile(source):
        raise OSEDiffError(f"{source} would be written over itself; name another file for the result")
    if rules.overwrite != ALL and _is_there(target):
        difference = rules.compare(job)
        if not rules.overwrite:
            made = f", made with {difference}" if difference else ""
            raise OSEDiffError(f"{target} exists{made}; name another file, or say --overwrite to replace it")
        if not difference:
            return Jobs([], [job])
    if not rules.look_only:
        _prepare(target.parent)
        check_target(target)
    return Jobs([job])


def _folder(source: Path, target: Path, rules: Rules) -> tuple[list[Job], str]:
    """Every picture of a folder, whether its result is there or not; and what is left out, in words."""
    if not target.is_dir() and (target.exists() or target.suffix.lower() in WRITABLE):
        raise OSEDiffError(f"{source} is a folder, so that {target} must be one too; it names a file")
    if os.path.realpath(target) == os.path.realpath(source):
        raise OSEDiffError(f"{source} is where the pictures come from; name another folder for the results")
    found, left_out = _pictures(source, target, recursive=rules.recursive)
    if not found:
        besides = f"; left out: {left_out}" if left_out else ""
        raise OSEDiffError(f"{source} holds no picture that ends in {', '.join(PICTURES)}{besides}")
    jobs = _targets({path: path.relative_to(source) for path in found}, target, rules.naming)
    _keep_originals(jobs)
    return jobs, left_out


def _several(places: Sequence[Path], target: Path, rules: Rules) -> tuple[list[Job], str]:
    """Every picture of files and folders, each once; and what is left out, in words."""
    if target.exists() and not target.is_dir():
        raise OSEDiffError(f"{target} is a file; several pictures go to a folder: name one")
    pictures: dict[Path, Path] = {}
    seen, words = set[str](), list[str]()
    for place in places:
        found, left_out = [place], ""
        if place.is_dir():
            found, left_out = _pictures(place, target, recursive=rules.recursive)
        words += [f"{left_out} (of {place})"] if left_out else []
        for path in found:
            if os.path.realpath(path) not in seen:
                inside = place.is_dir()
                pictures[path] = (
                    Path(place.resolve().name) / path.relative_to(place) if inside else Path(path.name)
                )
                seen.add(os.path.realpath(path))
    if not pictures:
        raise OSEDiffError(f"there is no picture that ends in {', '.join(PICTURES)}; {'; '.join(words)}")
    jobs = _targets(pictures, target, rules.naming, number=False)
    _keep_originals(jobs)
    return jobs, "; ".join(words)


def _keep_originals(jobs: Sequence[Job]) -> None:
    originals = {os.path.realpath(job.source) for job in jobs}
    for job in jobs:
        if os.path.realpath(job.target) in originals:
            raise OSEDiffError(f"{job.source} would be written over {job.target}; name another folder")


def _left(jobs: Sequence[Job], left_out: str, rules: Rules) -> Jobs:
    """Return what is to be done of these, with the folders that it needs."""
    mine = jobs[rules.share[0] :: rules.share[1]]
    there = [] if rules.overwrite == ALL else [job for job in mine if _is_there(job.target)]
    differences = {job: rules.compare(job) for job in there}
    done = {job for job, words in differences.items() if not (words and rules.overwrite)}
    left = [job for job in mine if job not in done]
    for folder in sorted({job.target.parent for job in left if not rules.look_only}):
        _prepare(folder)
    if left and not rules.look_only:
        check_target(left[0].target)
    otherwise = Counter(differences[job] for job in done if differences[job])
    return Jobs(left, [job for job in there if job in done], otherwise, left_out)


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


def _pictures(source: Path, target: Path, *, recursive: bool) -> tuple[list[Path], str]:
    """Return the pictures of a folder in the order of their names, and in words what is left out."""
    found = find_files(source, PICTURES, recursive=recursive, apart=target)
    results = earlier_results(found.files, source)
    words = [in_words(found.left_out)] if found.left_out.total() else []
    if found.left_out[INSIDE]:
        words.append("--recursive looks into folders")
    if results:
        words.append(f"{len(results)} that earlier runs made of others; to restore them, name their folder")
    return [path for path in found.files if path not in results], "; ".join(words)


def _targets(
    pictures: Mapping[Path, Path], target: Path, naming: Naming, *, number: bool = True
) -> list[Job]:
    """Give every picture a result of its own: a.jpg beside a.png become a_jpg and a_png, newly ended.

    pictures: with the place of each below `target`. Where those are taken too, as by a.jpg beside A.JPG, a
    number follows; or it is refused without `number`, for numbers depend on what else is named.
    """
    plain = [place.with_name(naming.of(path)) for path, place in pictures.items()]
    count = Counter(map(_key, plain))
    taken = {key for key, times in count.items() if times == 1}
    names: list[Path] = []
    for path, name in zip(pictures, plain, strict=True):
        if count[_key(name)] > 1:
            first = name = name.with_name(naming.of(path, result_stems(path)[1]))
            times = 1
            while _key(name) in taken:
                if not number:
                    raise OSEDiffError(
                        f"{path} and another picture would both become {target / name}; tell them apart by "
                        '--name, as in --name "{folder}_{stem}", or restore them into two folders'
                    )
                times += 1
                name = first.with_name(f"{first.stem}_{times}{first.suffix}")
            taken.add(_key(name))
        names.append(name)
    return [Job(path, target / name) for path, name in zip(pictures, names, strict=True)]


def _key(name: Path) -> str:
    """Return what many file systems take for one name: A.png and a.png, and both spellings of an accent."""
    return unicodedata.normalize("NFC", name.as_posix().casefold())

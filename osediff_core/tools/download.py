"""The download of one file from the hub, which goes on where an earlier one broke off.

No file appears under its name before it was checked. Each process writes a part of its own; the part of one
that is gone is taken up by the next.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

from ..base.hub_cache import link
from ..errors import OSEDiffError
from ..weights.hashes import Hashes, file_hashes
from ..whole_files import NOBODY, flush, left_behind, name_beside, reason, sweep, writing
from .hub import GIT_BLOB, SHA256, BrokenOffError, MirrorError, Remote, library, opened
from .published import KnownFile, Mirror


def cached(mirror: Mirror, file: KnownFile) -> Path | None:
    """Return the file in the hub's cache on this machine, if it is there."""
    path = mirror.prefix + file.path
    found = library().try_to_load_from_cache(
        mirror.repo, path, repo_type=mirror.kind, revision=mirror.revision
    )
    return Path(found) if isinstance(found, str) else None


def download(remote: Remote, file: KnownFile, target: Path) -> str:
    """Bring a file to `target`, which is replaced only by a whole and checked one; return how it was checked.

    Raises OSEDiffError where the transfer or the check fails. A part stays beside `target` for the next run.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    tag = _tag(target) + remote.etag[:12]
    part = _take_up(target, tag, remote.size)
    try:
        with writing(target):
            part.touch()
        _check_room(remote, part)
        _complete(remote, part)
        checked = _check_part(part, file, remote)
        with writing(target):
            os.replace(part, target)
    except BaseException:
        _leave(part, tag)
        raise
    forget_parts(target)
    return checked


def forget_parts(target: Path) -> None:
    """Remove what killed runs left of a file that is there now."""
    sweep(target.parent, _tag(target) + "[0-9a-f]+")
    sweep(target.parent)


def into_cache(remote: Remote, file: KnownFile) -> tuple[Path, str]:
    """Bring a file into the hub's cache, and return its path there and how it was checked."""
    from huggingface_hub.file_download import repo_folder_name

    mirror = remote.mirror
    commit = mirror.revision or remote.commit
    if commit is None:
        raise MirrorError(
            f"the hub does not say of which commit {remote.name} is, by which the cache keeps it: fetch it "
            "into a folder, with --to"
        )
    name = repo_folder_name(repo_id=mirror.repo, repo_type=mirror.kind)
    folder = Path(library().constants.HF_HUB_CACHE, name)
    # The cache holds contents under the hub's hash. One that is there, and whole, is not downloaded again.
    blob = folder / "blobs" / remote.etag
    checked = _there(blob, file, remote) or download(remote, file, blob)
    return link(folder, commit, remote.path, blob, newest=mirror.revision is None), checked


def check(path: Path, file: KnownFile, remote: Remote | None = None) -> str:
    """Say by what hash the file is the right one; OSEDiffError if it is another.

    A pinned hash decides where there is one, else the hub's own: of `remote`, or by which its cache named it.
    """
    name = Path(file.path).name
    what, remedy = (path, "delete it and fetch again") if remote is None else (name, "fetch it again")
    try:
        size, hashes = path.stat().st_size, file_hashes(path)
    except OSError as error:
        raise OSEDiffError(f"{path} cannot be read ({reason(error)}): look after the disk") from error
    expected = file.size if remote is None else remote.size
    if size == 0:
        raise OSEDiffError(f"{what} is empty (0 bytes): {remedy}")
    if file.sha256 or file.git_blob:
        kind, wanted, got = _pinned(file, hashes)
        if wanted != got:
            raise OSEDiffError(f"{name} is not the known file: its {kind} is {got}, not {wanted}; {remedy}")
        return f"{kind} {got[:12]} is the pinned one"
    if expected is not None and size != expected:
        raise OSEDiffError(f"{what} has {size} bytes, and {expected} are expected: {remedy}")
    stated = _name_in_cache(path) if remote is None else remote.etag
    for kind, form, got in (("sha256", SHA256, hashes.sha256), ("git blob", GIT_BLOB, hashes.git_blob)):
        if stated is not None and form.fullmatch(stated):
            if got != stated:
                raise OSEDiffError(
                    f"{what} is damaged: its {kind} is {got}, but the hub states {stated}; {remedy}"
                )
            return f"not pinned; {kind} {got[:12]} is the one that the hub states"
    return f"not pinned; sha256 {hashes.sha256}"


def _pinned(file: KnownFile, hashes: Hashes) -> tuple[str, str, str]:
    if file.sha256:
        return "sha256", file.sha256, hashes.sha256
    return "git blob", str(file.git_blob), hashes.git_blob


def _name_in_cache(path: Path) -> str | None:
    """Return the hash by which the hub's cache named a content, None elsewhere."""
    content = path.resolve()
    return content.name if content.parent.name == "blobs" else None


def _check_part(part: Path, file: KnownFile, remote: Remote) -> str:
    """Check a complete part; a wrong one is removed, for going on from it would give the same again."""
    try:
        return check(part, file, remote)
    except OSEDiffError:
        part.unlink()
        raise


def _there(blob: Path, file: KnownFile, remote: Remote) -> str | None:
    """How a content that the cache has already was checked, None where it has it not, or damaged."""
    with suppress(OSEDiffError):
        return check(blob, file, remote)
    return None


def _tag(target: Path) -> str:
    """Return what the parts of a file are known by, short whatever its name."""
    return hashlib.sha256(target.name.encode()).hexdigest()[:8]


def _take_up(target: Path, tag: str, size: int) -> Path:
    """Return the part to append to: the longest that a run which is gone has left, or a new one.

    Renamed to a name of this process, it is nobody else's, even where two take it up at once.
    """
    part = name_beside(target, tag)
    for left in sorted(left_behind(target.parent, tag), key=_size, reverse=True):
        if _size(left) <= size:
            with suppress(OSError):  # another process was first
                os.rename(left, part)
                break
    return part


def _leave(part: Path, tag: str) -> None:
    """Give a part away to the next run; an empty one is none."""
    with suppress(OSError):
        if _size(part):
            os.rename(part, name_beside(part, tag, NOBODY))
        else:
            part.unlink()


def _size(path: Path) -> int:
    """Bytes, 0 where nothing is there (any more)."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _check_room(remote: Remote, part: Path) -> None:
    needed, free = remote.size - _size(part), shutil.disk_usage(part.parent).free
    if needed > free:
        raise OSEDiffError(
            f"{remote.path} needs {needed / 1e9:.1f} GB more in {part.parent}, which has {free / 1e9:.1f} GB"
            ": make room, or name another place"
        )


def _complete(remote: Remote, part: Path) -> None:
    """Append to the part what it lacks; a broken connection is taken up again as long as any comes."""
    while (done := _size(part)) < remote.size:
        try:
            _transfer(remote, part, done)
        except BrokenOffError:
            if _size(part) <= done:
                raise


def _transfer(remote: Remote, part: Path, done: int) -> None:
    """Append to a part of `done` bytes, with a progress bar."""
    from huggingface_hub.utils import tqdm

    what = part.with_name(Path(remote.path).name)
    with writing(what), part.open("ab") as file, opened(remote, done) as (begin, pieces):
        file.truncate(begin)
        name = what.name
        with tqdm(
            total=remote.size, initial=begin, desc=name, unit="B", unit_scale=True, disable=None
        ) as bar:
            for piece in pieces:
                with writing(what):  # here, so that a full disk is not taken for a hub that broke off
                    file.write(piece)
                    file.flush()
                bar.update(len(piece))
        with writing(what):
            flush(file)

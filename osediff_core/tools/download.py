"""One file from the hub: what it is, and its download, which goes on where an earlier one broke off.

huggingface_hub knows the addresses, the token and the cache, and does the transfer. Two things are added to
it: a part of a file stays for the next run, and no file appears under its name before its hash was checked.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

from ..errors import OSEDiffError, first_line
from ..weights.hashes import Hashes, file_hashes
from .published import KnownFile, Mirror

SHA256, GIT_BLOB = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


class MirrorError(OSEDiffError):
    """One repository does not have the file, so that another may be asked."""


class BrokenOffError(OSEDiffError):
    """The hub did not answer, or stopped in the middle."""


@dataclass(frozen=True)
class Remote:
    """A file as the hub describes it. etag: the hub's hash of it. size: bytes, None where it does not say."""

    mirror: Mirror
    path: str
    url: str
    etag: str
    size: int | None


def endpoint() -> str:
    """The address of the hub, which HF_ENDPOINT changes."""
    return _hub().constants.ENDPOINT


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return bool(_hub().constants.HF_HUB_OFFLINE)


def describe(mirror: Mirror, file: KnownFile) -> Remote:
    """Ask the hub about a file. MirrorError: not there, or not the known file; OSEDiffError: no answer."""
    hub = _hub()
    path = mirror.prefix + file.path
    url = hub.hf_hub_url(mirror.repo, path, repo_type=mirror.kind, revision=mirror.revision)
    with _answers(f"{path} in {mirror.repo}"):
        found = hub.get_hf_file_metadata(url)
    if not found.etag:
        raise MirrorError(
            f"{endpoint()} describes {path} in {mirror.repo} without a hash: it is no hub, check HF_ENDPOINT"
        )
    remote = Remote(mirror, path, url, found.etag, found.size)
    _compare(file, remote)
    return remote


def cached(mirror: Mirror, file: KnownFile) -> Path | None:
    """The file in the hub's cache on this machine, if it is there."""
    path = mirror.prefix + file.path
    found = _hub().try_to_load_from_cache(mirror.repo, path, repo_type=mirror.kind, revision=mirror.revision)
    return Path(found) if isinstance(found, str) else None


def download(remote: Remote, file: KnownFile, target: Path) -> str:
    """Bring a file to `target`, which is replaced only by a whole and checked one; return how it was checked.

    Raises OSEDiffError where the transfer or the check fails. A part stays beside `target` for the next run.
    """
    part = target.with_name(f".{target.name[:80]}.{remote.etag[:12]}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    done = part.stat().st_size if part.exists() else 0
    if remote.size is not None and done > remote.size:
        part.unlink()
        done = 0
    _check_room(target.parent, remote, done)
    _complete(remote, part)
    try:
        checked = check(part, file, remote)
    except OSEDiffError:
        part.unlink()  # going on from it would give the same wrong file
        raise
    os.replace(part, target)
    return checked


def into_cache(remote: Remote, file: KnownFile) -> tuple[Path, str]:
    """Bring a file into the hub's cache, and return its path there and how it was checked."""
    hub, mirror = _hub(), remote.mirror
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(hub.constants.HF_HUB_CACHE, repo_folder_name(repo_id=mirror.repo, repo_type=mirror.kind))
    # The cache holds contents under the hub's hash. One that is there is linked and not downloaded again.
    checked = download(remote, file, folder / "blobs" / remote.etag)
    with _answers(f"{remote.path} in {mirror.repo}"):
        place = hub.hf_hub_download(mirror.repo, remote.path, repo_type=mirror.kind, revision=mirror.revision)
    return Path(place), checked


def check(path: Path, file: KnownFile, remote: Remote | None = None) -> str:
    """Say by what hash the file is the right one; OSEDiffError if it is another.

    A pinned hash decides where there is one, else the hub's own, if `remote` is given.
    """
    size, name = path.stat().st_size, Path(file.path).name
    if size == 0:
        raise OSEDiffError(f"{path} is empty (0 bytes): delete it and fetch again")
    hashes = file_hashes(path)
    if file.sha256 or file.git_blob:
        kind, wanted, got = _pinned(file, hashes)
        if wanted != got:
            raise OSEDiffError(
                f"{name} is not the known file: its {kind} is {got}, not {wanted}; delete it and fetch again"
            )
        return f"{kind} {got[:12]} is the pinned one"
    if remote is None:
        return f"not pinned; sha256 {hashes.sha256}"
    if remote.size is not None and size != remote.size:
        raise OSEDiffError(f"{name} has {size} bytes, but the hub states {remote.size}; fetch it again")
    return _check_stated(name, hashes, remote)


def _pinned(file: KnownFile, hashes: Hashes) -> tuple[str, str, str]:
    if file.sha256:
        return "sha256", file.sha256, hashes.sha256
    return "git blob", str(file.git_blob), hashes.git_blob


def _check_stated(name: str, hashes: Hashes, remote: Remote) -> str:
    """Compare with the hash that the hub states: sha256 of large files, git's of small ones."""
    for kind, form, got in (("sha256", SHA256, hashes.sha256), ("git blob", GIT_BLOB, hashes.git_blob)):
        if form.fullmatch(remote.etag):
            if got != remote.etag:
                raise OSEDiffError(
                    f"{name} arrived damaged: its {kind} is {got}, but the hub states {remote.etag}; "
                    "fetch it again"
                )
            return f"not pinned; {kind} {got[:12]} is the one that the hub states"
    return f"not pinned, and the hub states no hash; sha256 {hashes.sha256}"


def _compare(file: KnownFile, remote: Remote) -> None:
    """Refuse a file whose stated hash or size is not the pinned one, before anything is downloaded."""
    stated_sha256 = remote.etag if SHA256.fullmatch(remote.etag) else None
    stated_blob = remote.etag if GIT_BLOB.fullmatch(remote.etag) else None
    for known, stated, kind in (
        (file.size, remote.size, "size"),
        (file.sha256, stated_sha256, "sha256"),
        (file.git_blob, stated_blob, "git blob"),
    ):
        if known is not None and stated is not None and known != stated:
            raise MirrorError(
                f"{remote.path} in {remote.mirror.repo} is not the known file: the hub states {kind} "
                f"{stated}, expected {known}"
            )


def _check_room(folder: Path, remote: Remote, done: int) -> None:
    needed = (remote.size or 0) - done
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSEDiffError(
            f"{remote.path} needs {needed / 1e9:.1f} GB more in {folder}, which has {free / 1e9:.1f} GB: "
            "make room, or name another place"
        )


def _complete(remote: Remote, part: Path) -> None:
    """Append to the part what it lacks; a broken connection is taken up again as long as any comes."""
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _transfer(remote, part, before)
        except BrokenOffError:
            if part.stat().st_size <= before:
                raise


def _transfer(remote: Remote, part: Path, done: int) -> None:
    """Append to a part of `done` bytes, with a progress bar."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    with _answers(f"{remote.path} in {remote.mirror.repo}"), part.open("ab") as file:
        http_get(
            remote.url,
            file,
            resume_size=done,
            headers=build_hf_headers(),
            expected_size=remote.size,
            displayed_filename=Path(remote.path).name,
        )


@contextmanager
def _answers(what: str) -> Iterator[None]:
    """Turn what can go wrong with the hub into one sentence."""
    from huggingface_hub.errors import HfHubHTTPError

    # The library underneath is requests, httpx or httpx2, by version; this is its own base of all errors.
    transport = cast("type[Exception]", HfHubHTTPError.__bases__[0])
    try:
        yield
    except (transport, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            raise _refusal(what, status) from error
        if getattr(error, "errno", None) is not None and not isinstance(error, ConnectionError):
            raise OSEDiffError(f"{what} could not be written: {error}; make room and fetch again") from error
        raise BrokenOffError(
            f"{endpoint()} did not answer, or broke off, at {what} ({first_line(error)}): check the "
            "connection and fetch again, which goes on where it stopped; HF_ENDPOINT names another hub"
        ) from error


def _refusal(what: str, status: int) -> OSEDiffError:
    """A sentence for a status that the hub answered with."""
    place = endpoint()
    if status == 404:
        return MirrorError(f"{place} has no {what} (404): it may have been withdrawn")
    if status in (401, 403):
        return MirrorError(
            f"{place} does not give out {what} ({status}): it is gone, private, or wants `hf auth login` "
            "(or HF_TOKEN)"
        )
    if status == 429:
        return OSEDiffError(
            f"{place} had too many requests ({status}) at {what}: wait some minutes, then fetch again, "
            "which goes on where it stopped"
        )
    return OSEDiffError(f"{place} failed at {what} (status {status}): try again later")


def _hub() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.constants  # not an attribute before it is imported
    except ImportError as error:
        raise OSEDiffError(
            f"huggingface_hub cannot be imported ({error}): install the requirements"
        ) from error
    return huggingface_hub

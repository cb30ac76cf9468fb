"""What the hub is asked, and how far its answers are believed.

huggingface_hub knows the addresses, the token and the way out (proxies, certificates); its session asks.
What comes back is checked here, because a hub, or who stands between, may say anything: hashes and commits
have their form before they name a file, redirects go to https, nothing is unpacked, and a content ends where
it was said to end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import urljoin, urlsplit

from ..errors import OSEDiffError, first_line
from .published import KnownFile, Mirror

SHA256, GIT_BLOB = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
COMMIT = re.compile(r"[0-9a-f]{40}")
SIZE = re.compile(r"[0-9]{1,15}")
REDIRECTS, MOST_REDIRECTS = (301, 302, 303, 307, 308), 5
LINKED = ("x-linked-etag", "x-linked-size", "x-repo-commit")
"""What the hub says of a file itself, not of the answer that sends on to it."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PIECE = 1 << 20  # bytes


class MirrorError(OSEDiffError):
    """One repository does not have the file, so that another may be asked."""


class BrokenOffError(OSEDiffError):
    """The hub did not answer, or stopped in the middle."""


@dataclass(frozen=True)
class Remote:
    """A file as the hub describes it. etag: its sha256, or git's hash of it. size: bytes.

    commit: of the repository, None where the hub does not say.
    """

    mirror: Mirror
    path: str
    url: str
    etag: str
    size: int
    commit: str | None

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.path} in {self.mirror.repo}"


@dataclass(frozen=True)
class Answer:
    """What was answered. headers: by names in lower case. pieces: the content, as it was sent."""

    status: int
    headers: dict[str, str]
    pieces: Callable[[int], Iterator[bytes]]


def endpoint() -> str:
    """Return the address of the hub, which HF_ENDPOINT changes."""
    return library().constants.ENDPOINT


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return bool(library().constants.HF_HUB_OFFLINE)


def describe(mirror: Mirror, file: KnownFile) -> Remote:
    """Ask the hub about a file. MirrorError: not there, or not the known file; OSEDiffError: no answer."""
    path = mirror.prefix + file.path
    what = f"{path} in {mirror.repo}"
    with _answers(what):
        url = library().hf_hub_url(mirror.repo, path, repo_type=mirror.kind, revision=mirror.revision)
        said = _headers_of(url, what)
    etag = said.get("x-linked-etag", said.get("etag", "")).removeprefix("W/").strip('"')
    if not (SHA256.fullmatch(etag) or GIT_BLOB.fullmatch(etag)):
        raise MirrorError(
            f"{endpoint()} describes {what} without a hash (sha256 or git's): it is no hub, check HF_ENDPOINT"
        )
    size = said.get("x-linked-size", said.get("content-length", ""))
    if not SIZE.fullmatch(size):
        raise MirrorError(f"{endpoint()} describes {what} without its size: it is no hub, check HF_ENDPOINT")
    commit = said.get("x-repo-commit")
    if commit is not None and not COMMIT.fullmatch(commit):
        raise MirrorError(
            f"{endpoint()} gives {what} a commit that is none (40 hexadecimal digits): check HF_ENDPOINT"
        )
    remote = Remote(mirror, path, url, etag, int(size), commit)
    _compare(file, remote)
    return remote


@contextmanager
def opened(remote: Remote, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Open a content at byte `start`: yield where it begins, 0 where the hub gives no ranges, and its pieces.

    The pieces end at the stated size. Raises BrokenOffError where they end before, MirrorError where they go
    on, and where the answer is not that content.
    """
    asked = {"Range": f"bytes={start}-"} if start else {}
    with _answers(remote.name), _followed(remote, asked) as answer:
        if start and answer.status == 416:  # the hub has less than is here: from the beginning
            with opened(remote, 0) as whole:
                yield whole
            return
        begin = _beginning(remote, answer, start)
        yield begin, _pieces(remote, answer, remote.size - begin)


def _beginning(remote: Remote, answer: Answer, start: int) -> int:
    """Return where a content begins; MirrorError for an answer that is none, or not as it is stored."""
    if answer.status not in (200, 206):
        raise _refusal(remote.name, answer.status)
    packing = answer.headers.get("content-encoding", "identity").strip().lower()
    if packing not in ("", "identity"):
        raise MirrorError(
            f"{endpoint()} sends {remote.name} packed ({packing[:20]!a}), which was not asked for, and "
            "nothing is unpacked here: check HF_ENDPOINT and proxies"
        )
    if answer.status == 200:
        return 0
    if not answer.headers.get("content-range", "").startswith(f"bytes {start}-") or not start:
        raise MirrorError(f"{endpoint()} sends another part of {remote.name} than was asked for: try later")
    return start


def _pieces(remote: Remote, answer: Answer, left: int) -> Iterator[bytes]:
    for piece in answer.pieces(PIECE):
        left -= len(piece)
        if left < 0:
            raise MirrorError(
                f"{endpoint()} sends more of {remote.name} than the {remote.size} bytes that it states: "
                "check HF_ENDPOINT"
            )
        yield piece
    if left:
        raise _broken_off(remote.name, f"{left} bytes are missing")


def _headers_of(url: str, what: str) -> dict[str, str]:
    """Ask for the description of a file; follow the hub to itself, but not to its storage."""
    linked: dict[str, str] = {}
    for _ in range(MOST_REDIRECTS):
        with _asked("HEAD", url, {}, library().constants.HF_HUB_ETAG_TIMEOUT) as answer:
            said = dict(answer.headers)
            linked = {name: said[name] for name in LINKED if name in said} | linked
            if answer.status not in (200, *REDIRECTS):
                raise _refusal(what, answer.status)
            if answer.status == 200:
                return said | linked
            said.pop("content-length", None)  # of the answer, not of the file
            there = _target(url, said.get("location", ""), what)
            if _origin(there) != _origin(url):
                return said | linked
            url = there
    raise MirrorError(f"{endpoint()} sends {what} on more than {MOST_REDIRECTS} times: check HF_ENDPOINT")


@contextmanager
def _followed(remote: Remote, asked: Mapping[str, str]) -> Iterator[Answer]:
    """Get a content, from wherever the hub sends on to."""
    url = remote.url
    for _ in range(MOST_REDIRECTS):
        with _asked("GET", url, asked, library().constants.HF_HUB_DOWNLOAD_TIMEOUT) as answer:
            if answer.status not in REDIRECTS:
                yield answer
                return
            url = _target(url, answer.headers.get("location", ""), remote.name)
    raise MirrorError(
        f"{endpoint()} sends {remote.name} on more than {MOST_REDIRECTS} times: check HF_ENDPOINT"
    )


@contextmanager
def _asked(method: str, url: str, asked: Mapping[str, str], timeout: float) -> Iterator[Answer]:
    """Ask once, and follow nothing; the token goes to the hub alone."""
    from huggingface_hub.utils import build_hf_headers, get_session

    headers = {**build_hf_headers(), **asked, "Accept-Encoding": "identity"}
    if _origin(url) != _origin(endpoint()):
        headers.pop("authorization", None)
    session: Any = get_session()
    if hasattr(session, "build_request"):  # httpx or httpx2; requests until version 1 of the library
        came = session.stream(method, url, headers=headers, timeout=timeout, follow_redirects=False)
    else:
        came = session.request(
            method, url, headers=headers, timeout=timeout, allow_redirects=False, stream=True
        )
    with came as response:
        said = {name.lower(): value for name, value in response.headers.items()}
        raw = response.iter_raw if hasattr(response, "iter_raw") else response.iter_content
        yield Answer(response.status_code, said, raw)


def _target(url: str, location: str, what: str) -> str:
    """Return where an answer sends on to: https, or, from a hub without it, the same machine."""
    try:
        there = urljoin(url, location)
        origin, before = _origin(there), _origin(url)
    except ValueError:
        origin, there, before = ("", "", 0), location, ("", "", 0)
    same = origin[1] == before[1] or {origin[1], before[1]} <= set(LOOPBACK)
    if origin[1] and location and (origin[0] == "https" or (origin[0] == before[0] == "http" and same)):
        return there
    raise MirrorError(
        f"{endpoint()} sends {what} on to {there[:200]!a}, and only https is followed: check HF_ENDPOINT"
    )


def _origin(url: str) -> tuple[str, str, int]:
    """Scheme, machine and port of an address; ValueError for what is none."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)


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
                f"{remote.name} is not the known file: the hub states {kind} {stated}, expected {known}"
            )


@contextmanager
def _answers(what: str) -> Iterator[None]:
    """Turn what can go wrong with the hub into one sentence."""
    try:
        yield
    except OSEDiffError:
        raise
    except Exception as error:  # of requests, httpx or httpx2, by version, and of what these do not foresee
        raise _broken_off(what, first_line(error)) from error


def _broken_off(what: str, why: str) -> BrokenOffError:
    return BrokenOffError(
        f"{endpoint()} did not answer, or broke off, at {what} ({why}): check the connection and fetch "
        "again, which goes on where it stopped; HF_ENDPOINT names another hub"
    )


def _refusal(what: str, status: int) -> OSEDiffError:
    """Return a sentence for a status that the hub answered with."""
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


def library() -> ModuleType:
    """Return huggingface_hub; OSEDiffError where it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.constants  # not an attribute before it is imported
    except ImportError as error:
        raise OSEDiffError(
            f"huggingface_hub cannot be imported ({error}): install the requirements"
        ) from error
    return huggingface_hub

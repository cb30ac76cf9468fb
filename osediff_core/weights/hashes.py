"""What a file's content is known by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20  # bytes read at a time
SAMPLE, SAMPLES = 1 << 16, 64  # bytes at each place of a file, and how many places of a large one


@dataclass(frozen=True)
class Hashes:
    """sha256: of the content, as the hub states it for large files. git_blob: git's own, for small ones."""

    sha256: str
    git_blob: str


def file_hashes(path: Path) -> Hashes:
    """Return both hashes of a file in one reading, in hexadecimal; OSError where it cannot be read."""
    sha256 = hashlib.sha256()
    # Git names a content by the SHA-1 of a header and the content.
    git_blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
            git_blob.update(chunk)
    return Hashes(sha256.hexdigest(), git_blob.hexdigest())


def fingerprint(path: Path) -> str:
    """Return 16 hexadecimal digits by which weights are known again: one file, or all files of a folder.

    They come of names, sizes and SAMPLES places of each file, so that gigabytes take milliseconds: other
    weights have others, but a file changed between the samples has not. OSError where one cannot be read.
    """
    sha256 = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if not file.is_file():
            continue
        size = file.stat().st_size
        sha256.update(f"{file.relative_to(path) if file != path else ''}\0{size}\0".encode(errors="replace"))
        with file.open("rb") as content:
            for at in range(0, size, max(SAMPLE, size // SAMPLES)):
                content.seek(at)
                sha256.update(content.read(SAMPLE))
    return sha256.hexdigest()[:16]

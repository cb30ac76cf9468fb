"""What a file's content is known by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20  # bytes read at a time


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

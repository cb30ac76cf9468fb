"""What the fuzzers of this folder share: a reader is given files, and may refuse them by a sentence alone.

    python tests/fuzz/torch_file.py -runs=50000

Each needs atheris, which the `dev` extra installs where there is one. Arguments are libFuzzer's. What a
fuzzer has found to be of interest is kept in a folder of the system's temporary files and gone on from; what
ends it is written as crash-HASH into the current folder, and becomes a case in the tests of that reader.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import atheris  # pyright: ignore[reportMissingImports]

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def watched() -> AbstractContextManager[object]:
    """Let the modules of the core that are imported meanwhile tell which of their lines are run."""
    return atheris.instrument_imports(include=["osediff_core"])


def refusable(read: Callable[[], object]) -> None:
    """Let a reader refuse what it reads by a sentence, if that is a harmless one."""
    from osediff_core.errors import OSEDiffError

    try:
        read()
    except OSEDiffError as error:
        if not str(error).isprintable():
            raise AssertionError("a sentence that is not harmless") from error


def run(read: Callable[[Path], object], seeds: Sequence[bytes], name: str) -> None:
    """Give files called `name` to `read` until the arguments of the program end it; seeds: to begin with."""
    logging.disable()  # what the core says of each file is no finding
    folder = Path(tempfile.gettempdir(), "osediff-fuzz", Path(sys.argv[0]).stem)
    corpus, place = folder / "corpus", folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)

    def one(content: bytes) -> None:
        place.write_bytes(content)
        refusable(lambda: read(place))

    atheris.Setup([*sys.argv, str(corpus)], one)
    atheris.Fuzz()

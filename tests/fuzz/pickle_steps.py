"""Fuzz the machine that runs pickles, by itself: a zip's checksums and lengths are no hurdle here."""

import zipfile
from pathlib import Path

from target import run, watched

with watched():
    from osediff_core.weights.tensorfile import TensorFile

from torch_file import seeds


def read(path: Path) -> None:
    """Read a torch file whose pickle is the content of `path`."""
    whole = path.with_name("whole.ckpt")
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("a/data.pkl", path.read_bytes())
        archive.writestr("a/data/0", bytes(64))
    file = TensorFile(whole)
    for key in file.shapes:
        file.read(key)


def pickles() -> list[bytes]:
    """Return the pickles in torch's files."""
    import io

    files = [zipfile.ZipFile(io.BytesIO(content)) for content in seeds() if content.startswith(b"PK")]
    return [file.read(next(name for name in file.namelist() if name.endswith("data.pkl"))) for file in files]


if __name__ == "__main__":
    run(read, pickles(), "steps")

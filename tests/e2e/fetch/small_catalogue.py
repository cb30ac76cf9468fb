"""`osediff` with a small catalogue for the real one, whose pinned files nobody could serve in a test."""

from __future__ import annotations

import sys
from pathlib import Path
from types import MappingProxyType

from osediff_core.commands import cli
from osediff_core.tools import published
from osediff_core.tools.published import SOURCES, KnownFile, Mirror, PublishedFiles

MICRO = Path(__file__).resolve().parents[2] / "golden_micro" / "tiny_sd"
REVISION = "fedcba9876543210fedcba9876543210fedcba98"


def catalogue(pinned: str) -> dict[str, PublishedFiles]:
    """A tree of four files in two mirrors, one file in a folder of a space, at a revision, and a base."""
    base = tuple(
        KnownFile(path.relative_to(MICRO).as_posix()) for path in sorted(MICRO.rglob("*")) if path.is_file()
    )
    files = (
        KnownFile("config.json"),
        KnownFile("unet/config.json"),
        KnownFile("unet/model.safetensors", sha256=pinned, seen="the test"),
        KnownFile("vae/model.safetensors"),
    )
    mirrors = (Mirror("one/model"), Mirror("two/model"))
    page, licence = "https://example.org/model", SOURCES["base"].licence
    return {
        "model": PublishedFiles("a model", files, licence, page, "12 MB", "diffusers", mirrors, tree="model"),
        "base": PublishedFiles(
            "a base", base, licence, page, "3 MB", "diffusers", (Mirror("tiny/sd"),), tree="sd"
        ),
        "list": PublishedFiles(
            "a list",
            (KnownFile("list.txt"),),
            licence,
            page,
            "4 bytes",
            "osediff",
            (Mirror("some/space", "data/", REVISION, kind="space"),),
        ),
    }


if __name__ == "__main__":
    published.SOURCES = MappingProxyType(catalogue(sys.argv[1]))
    sys.exit(cli.main(sys.argv[2:]))

"""Fuzz the reader of CLIP's vocabulary and of a base's tokenizer: a content is one of the files."""

import json
from pathlib import Path

from target import refusable, run, watched

with watched():
    from osediff_core.base.folder import load_tokenizer
    from osediff_core.base.load import DEMO_BASE
    from osediff_core.base.vocabulary import sd2_tokenizer

WHOLE = {file.name: file.read_bytes() for file in (DEMO_BASE / "tokenizer").iterdir()}


def read(path: Path) -> None:
    """Read a tokenizer, one file of which is `path`; the first byte chooses which."""
    content = path.read_bytes()
    folder = path.parent / "base" / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    for name, whole in WHOLE.items():
        (folder / name).write_bytes(whole)
    if content:
        (folder / sorted(WHOLE)[content[0] % len(WHOLE)]).write_bytes(content[1:])
    refusable(lambda: load_tokenizer(folder.parent))
    refusable(lambda: sd2_tokenizer(folder))


if __name__ == "__main__":
    small = json.dumps({"a": 0, "b</w>": 1, "<|endoftext|>": 2}).encode()
    seeds = [bytes([i]) + WHOLE[name] for i, name in enumerate(sorted(WHOLE))]
    run(read, [*seeds, *(bytes([i]) + small for i in range(len(WHOLE)))], "content")

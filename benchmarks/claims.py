"""Where each figure of the README and of docs/ comes from: `python -m benchmarks.claims` writes claims.md.

docs/claims.toml has the sources: for the figures of the README by the words they stand in, for the pages of
docs/ by section. Figures without a source, and sources whose words are gone, are named, and nothing written.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from osediff_core.commands.console import show
from osediff_core.errors import OSEDiffError
from osediff_core.text_files import read_text
from osediff_core.whole_files import write_whole
from train.evaluation.tables import markdown
from train.programs.console import refuse, start_console
from train.programs.tables import from_table, parse_toml

ROOT = Path(__file__).resolve().parents[1]
README, SOURCES, PAGE = "README.md", "docs/claims.toml", "docs/claims.md"
NUMBER = r"\d[\d.,]*\d|\d"
WORDS = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|sixteenth|half|dozen|hundred"
FIGURE = re.compile(rf"(?<![\w.])(?:{NUMBER}|(?:{WORDS})\b)", re.IGNORECASE)
"""A figure of the README: a number in digits or letters."""
UNITS = "dB|s|seconds|minutes|min|hours|GiB|MiB|GB|MB|kB|%|levels|times|TMACs|pairs|parameters"
MEASURED = re.compile(
    rf"(?<![\w.])(?:\d+\.\d+(?![\w.])|(?:{NUMBER})\s(?:{UNITS})\b|(?:{NUMBER})\s?%|\d\.?\d*e-\d)"
)
"""What a section of docs/ may not hold without a source: a decimal number, or one with a unit."""
NOT_PROSE = re.compile(
    r"```.*?```|^ {4}[^#\n]*|`[^`]*`|\]\([^)]*\)|<!--.*?-->|https?://\S+", re.DOTALL | re.MULTILINE
)
"""What no figure is looked for in: code but for its comments, addresses, comments of the page."""


HEAD = """# Claims

Where the figures of this project come from. Written by `python -m benchmarks.claims` from `docs/claims.toml`;
a test holds that each figure of the README stands here, and each section of docs/ that measures something.
Dates are those of the text: what was not run since may give other figures today. Where a figure is other
people's, their work stands in place of a command."""
SETTINGS = """## Settings, formats and sizes of files

Figures of these sections are no measurements:"""


@dataclass(frozen=True)
class Claim:
    """Where figures come from: `says` are the README's words, or the heading of a section of docs/.

    command: what gives them again. of: what was measured, on what. date: when they were last written.
    """

    page: str
    says: str
    command: str
    of: str
    date: str


@dataclass(frozen=True)
class Sources:
    """All claims; `names` of the README and `settings`, headings by page, hold figures that claim nothing."""

    claims: list[Claim]
    names: list[str]
    settings: dict[str, list[str]]


def read_sources(root: Path) -> Sources:
    """Read docs/claims.toml. Raises OSEDiffError for an entry that is none."""
    table = parse_toml(read_text(root / SOURCES))
    claims = [from_table(Claim, row, "claims.") for row in table["claims"]]
    return Sources(claims, table["names"], table["settings"])


def prose(text: str) -> str:
    """Blank out what no figure is looked for in; every letter keeps its place."""
    return NOT_PROSE.sub(lambda found: re.sub(r"\S", " ", found[0]), text)


def unclaimed(text: str, quotes: list[str]) -> list[str]:
    """The figures of a page that stand in none of the quotes, each with the words around it."""
    taken = [span for quote in quotes for span in places(text, quote)]
    plain = prose(text)
    return [
        " ".join(text[max(0, found.start() - 30) : found.end() + 30].split())
        for found in FIGURE.finditer(plain)
        if not any(start <= found.start() and found.end() <= end for start, end in taken)
    ]


def places(text: str, quote: str) -> list[tuple[int, int]]:
    """Where a quote stands in a page, whatever its lines are broken at; a table stands by its first row."""
    pattern = r"\s+".join(map(re.escape, quote.split()))
    if quote.startswith("|"):
        pattern += r"(?:\n\|[^\n]*)+"
    return [found.span() for found in re.finditer(pattern, text)]


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Headings of a page with what stands below each, up to the next."""
    parts = re.split(r"^#{1,3} (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    yield from zip(parts[1::2], parts[2::2], strict=True)


def problems(root: Path, sources: Sources) -> list[str]:
    """What has no source, and which sources are of nothing that is there."""
    readme = read_text(root / README)
    quotes = [claim.says for claim in sources.claims if claim.page == README] + sources.names
    found = [f'{README}: no source for the figure in "{words}"' for words in unclaimed(readme, quotes)]
    found += [f'{README}: no such words: "{quote}"' for quote in quotes if not places(readme, quote)]
    for path in sorted((root / "docs").glob("*.md")):
        page = f"docs/{path.name}"
        if page != PAGE:
            found += _problems_of_page(page, read_text(path), sources)
    return found


def _problems_of_page(page: str, text: str, sources: Sources) -> list[str]:
    known = [claim.says for claim in sources.claims if claim.page == page]
    known += sources.settings.get(page, [])
    there = dict(sections(text))
    found = [f"{page}: no section {name!r}" for name in known if name not in there]
    bare = [name for name, below in there.items() if MEASURED.search(prose(below)) and name not in known]
    return found + [f"{page}: no source for the figures of section {name!r}" for name in bare]


def render(sources: Sources) -> str:
    """The page, claims by page, in the order of the sources."""
    parts = [HEAD]
    for page in dict.fromkeys(claim.page for claim in sources.claims):
        rows = [[c.says, c.command, c.of, c.date] for c in sources.claims if c.page == page]
        heads = ["says" if page == README else "section", "command", "measured on", "date"]
        parts += [f"## {page}", markdown(heads, rows)]
    others = [f"- {page}: {', '.join(names)}" for page, names in sources.settings.items()]
    return "\n\n".join([*parts, SETTINGS, "\n".join(others)]) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Write the page; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.claims",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="say what has no source, and write nothing")
    args = parser.parse_args(argv)
    start_console()
    try:
        sources = read_sources(ROOT)
        found = problems(ROOT, sources)
        if found:
            show("\n".join(found))
            return 1
        if not args.check:
            write_whole(ROOT / PAGE, render(sources).encode())
    except OSEDiffError as error:
        return refuse(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())

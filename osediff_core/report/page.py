"""A report as one HTML file that a double click opens: no network, no library, no code of others.

All that comes from files and settings is text: it is escaped here, and page.js puts it into text nodes only.
The page's own policy lets a browser run this script and no other, and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

from .. import __version__
from ..errors import OSEDiffError, printable
from ..pictures.files import check_place
from ..whole_files import write_whole
from .cases import GAIN, MOST_CASES, PICTURE_BYTES, Case, ShownCase, show_case

log = logging.getLogger(__name__)

ENDINGS = (".html", ".htm")
LIBRARIES = ("torch", "numpy", "pillow", "transformers", "safetensors")


@dataclass(frozen=True)
class Table:
    """Cells of plain text; one between ** and ** is bold, as in Markdown."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A chart: SVG made by this project, with all text in it escaped."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """A part of a report under a heading."""

    heading: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class Report:
    """What a page shows.

    cases: pictures, in the order of the page, or most changed first. case_heads: names of the cases' cells.
    order: how the pictures are ordered, in words. settings: how all was made, by name.
    """

    title: str
    cases: Sequence[Case]
    order: str
    sections: Sequence[Section] = ()
    case_heads: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    most_changed_first: bool = False


def check_page(path: Path) -> None:
    """Raise OSEDiffError where no page could be written to `path`, before anything is made for it."""
    if path.suffix.lower() not in ENDINGS:
        raise OSEDiffError(
            f"expected a report's name to end in {' or '.join(ENDINGS)}, got {path}: name it so"
        )
    check_place(path, "a report")


def write_report(path: Path, report: Report) -> None:
    """Write the page, whole or not at all. A picture that cannot be read is left out and named on the page.

    Raises OSEDiffError where the page cannot be written.
    """
    check_page(path)
    write_whole(path, render(report).encode())


def render(report: Report) -> str:
    """Return the page's HTML."""
    shown, left_out = _show(report.cases)
    if report.most_changed_first:
        shown.sort(key=lambda one: -one.change)
    style, script = _template("page.css"), _template("page.js")
    parts = {
        "policy": f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
        "style": style,
        "script": script,
        "title": text_of(report.title),
        "sections": "\n".join(_section(i, one) for i, one in enumerate(report.sections)),
        "no_pictures": "" if report.cases else " hidden",
        "order": text_of(report.order),
        "left_out": _paragraphs(left_out),
        "cases": _table(_case_heads(report), [_case_row(i, one) for i, one in enumerate(shown)], "pictures"),
        "gain": str(GAIN),
        "settings": _definitions({**report.settings, "versions": _versions()}),
        "data": "\n".join(_data(i, one) for i, one in enumerate(shown)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _template("page.html"))


def text_of(value: object) -> str:
    """Return text as HTML that shows it in one line, whatever it holds, and turns no reading direction."""
    return html.escape(printable(value))


def _show(cases: Sequence[Case]) -> tuple[list[ShownCase], list[str]]:
    """Return the pictures of a page, and sentences on those that it lacks."""
    shown, left_out = [], []
    for case in cases[:MOST_CASES]:
        try:
            shown.append(show_case(case, PICTURE_BYTES // min(len(cases), MOST_CASES)))
        except OSEDiffError as error:
            log.warning("%s is not in the report: %s", case.name, error)
            left_out.append(f"Not shown: {case.name}. {_without_folders(str(error), case)}")
    if len(cases) > MOST_CASES:
        left_out.append(
            f"{MOST_CASES} of {len(cases)} pictures are shown, which is the most that a page holds."
        )
    return shown, left_out


def _without_folders(said: str, case: Case) -> str:
    """Name files without the folders that they lie in, which a page that is passed on should not tell."""
    for view in case.views:
        said = said.replace(printable(view.path), printable(view.path.name))
    return said


def _template(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _section(number: int, section: Section) -> str:
    parts = [f'<section aria-labelledby="s{number}"><h2 id="s{number}">{text_of(section.heading)}</h2>']
    parts.append(_paragraphs(section.text))
    for table in section.tables:
        rows = [f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows]
        parts.append(_table(table.heads, rows))
    charts = [
        f"<figure>{one.svg}<figcaption>{text_of(one.caption)}</figcaption></figure>"
        for one in section.figures
    ]
    parts.append(f'<div class="charts">{"".join(charts)}</div>' if charts else "")
    return "\n".join([*filter(None, parts), "</section>"])


def _paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"<p>{text_of(text)}</p>" for text in texts)


def _table(heads: Sequence[str], rows: Sequence[str], name: str = "") -> str:
    head = "".join(f'<th scope="col">{text_of(one)}</th>' for one in heads)
    known = f' id="{name}"' if name else ""
    return (
        f'<div class="wide"><table{known} class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    if len(text) > 4 and text.startswith("**") and text.endswith("**"):
        return f"<td><strong><bdi>{text_of(text[2:-2])}</bdi></strong></td>"
    return f"<td><bdi>{text_of(text)}</bdi></td>"


def _case_heads(report: Report) -> list[str]:
    return ["picture", *report.case_heads, "difference, levels"]


def _case_row(number: int, shown: ShownCase) -> str:
    name = text_of(shown.case.name)
    picture = (
        f'<td><button type="button" class="pick" data-case="{number}">'
        f'<img src="{shown.thumbnail}" alt="" loading="lazy" decoding="async"><bdi>{name}</bdi></button></td>'
    )
    cells = "".join(map(_cell, [*shown.case.cells, f"{shown.change:.2f}"]))
    return f"<tr>{picture}{cells}</tr>"


def _data(number: int, shown: ShownCase) -> str:
    """One case for page.js, as text that a browser does not decode before it is chosen."""
    content = {
        "name": printable(shown.case.name),
        "part": shown.part,
        "height": shown.size[0],
        "width": shown.size[1],
        "main": shown.case.main,
        "comparedWith": shown.case.compared_with,
        "views": [{key: printable(value) for key, value in asdict(view).items()} for view in shown.views],
    }
    plain = json.dumps(content).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="case-{number}">{plain}</script>'


def _definitions(facts: Mapping[str, str]) -> str:
    rows = [
        f"<dt><bdi>{text_of(name)}</bdi></dt><dd><bdi>{text_of(value)}</bdi></dd>"
        for name, value in facts.items()
    ]
    return f"<dl>{''.join(rows)}</dl>"


def _versions() -> str:
    """Name this program and the libraries that pictures come out of, as far as they are installed."""
    found = [f"osediff {__version__}"]
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)

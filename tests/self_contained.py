"""What a page would ask of the network, read as a browser would: of one that can be passed on, nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

FETCHING_TAGS = {"link", "iframe", "frame", "object", "embed", "base", "audio", "video", "source", "track"}
FETCHING_ATTRIBUTES = {
    *("src", "srcset", "href", "xlink:href", "action", "formaction", "data", "poster", "background", "ping"),
    *("manifest", "style"),
}
CODE = re.compile(
    r"\bfetch\s*\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts|\bimport\b|\beval\b|Function\s*\(|"
    r"window\.open|location\s*[.=]|https?:|@import|url\(\s*['\"]?(?!data:)",
    re.IGNORECASE,
)


class _Reader(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        data = tag == "script" and given.get("type") == "application/json"
        self.inside = tag if tag in ("script", "style") and not data else ""
        if tag in FETCHING_TAGS:
            self.found.append(f"<{tag}>")
        if given.get("http-equiv", "").lower() == "refresh":
            self.found.append("a refresh")
        for name, value in given.items():
            if name in FETCHING_ATTRIBUTES and not value.strip().lower().startswith("data:image/"):
                self.found.append(f'{name}="{value[:60]}"')
            if name.startswith("on"):
                self.found.append(f"{name}=")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.found += [f"{self.inside}: {match[0]}" for match in CODE.finditer(data)]


def asks_for(page: str) -> list[str]:
    """Name all in a page of HTML that would load something, or could."""
    return _Reader(page).found

"""The page to look at: one file, nothing from elsewhere, whatever names and texts hold."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import write_image
from osediff_core.report import cases, page
from osediff_core.report.cases import Case, View, show_case
from osediff_core.report.page import Report, Section, Table, render, write_report
from tests.self_contained import asks_for

HOSTILE = "</script><script>alert(1)</script>\"'&amp;{{data}}<!--\u202egnp.exe\u2066\x1b[2J"
DATA = re.compile(r"data:image/webp;base64,([A-Za-z0-9+/=]+)")


class Page(HTMLParser):
    """A page as a browser sees it: elements with attributes, scripts by id, and the text of elements."""

    VOID = frozenset({"meta", "img", "input", "link", "br"})

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] in ("script", "style"):
            self.scripts.append((*self.open[-1], data))
        else:
            self.texts.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def cases(self):
        return [json.loads(data) for _, a, data in self.scripts if a.get("type") == "application/json"]


def smooth(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)


@pytest.fixture
def case(tmp_path):
    """Make a case of an input of 8x12, a result and an original of 32x48."""

    def made(name="a", cells=(), note=""):
        for i, (kind, size) in enumerate((("lq", (8, 12)), ("sr", (32, 48)), ("hq", (32, 48)))):
            write_image(tmp_path / f"{kind}.png", smooth(*size, seed=i))
        views = [
            View("LQ", tmp_path / "lq.png", "nearest"),
            View("bicubic", tmp_path / "lq.png", "bicubic"),
            View(name, tmp_path / "sr.png", note=note),
            View("HQ", tmp_path / "hq.png"),
        ]
        return Case(name, views, 2, 3, cells)

    return made


def decoded(uri):
    found = DATA.fullmatch(uri)
    assert found, uri[:40]
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_a_page_holds_all_that_it_shows(case, tmp_path):
    table = Table(["method", "PSNR"], [["ours", "**25.00**"], ["theirs", "–"]])
    report = Report(
        "Title",
        [case(cells=["x"])],
        "as they come",
        [Section("Measured", ["one"], [table])],
        ["set"],
        {"k": "v"},
    )
    path = tmp_path / "page.html"
    write_report(path, report)
    found = Page(path.read_text(encoding="utf-8"))
    assert found.open == []
    assert asks_for(path.read_text(encoding="utf-8")) == []
    assert "25.00" in found.texts
    assert "**25.00**" not in found.texts
    assert len(found.of("strong")) == 1
    for text in ("Title", "Measured", "one", "ours", "as they come", "set", "k", "v", "x"):
        assert text in found.texts, text
    (shown,) = found.cases
    assert [view["label"] for view in shown["views"]] == ["LQ", "bicubic", "a", "HQ"]
    assert {image["loading"] for image in found.of("img")} == {"lazy"}
    assert {image["decoding"] for image in found.of("img")} == {"async"}
    assert len(found.of("img")) == 1  # the thumbnail: the others are decoded when they are chosen


HARMLESS = (
    "<p>https://example.org is text</p><img src='data:image/webp;base64,AA=='><style>a { color: red }</style>"
)


@pytest.mark.parametrize(
    "asking",
    [
        "<img src='https://example.org/a.png'>",
        "<img src='a.png'>",
        "<img srcset='//example.org/a.png 2x'>",
        "<script src='https://example.org/a.js'></script>",
        "<script>fetch('/a')</script>",
        "<script>new Image().src = 'https://example.org/a.png'</script>",
        "<link rel='stylesheet' href='a.css'>",
        "<style>@import 'a.css';</style>",
        "<style>a { background: url(https://example.org/a.png) }</style>",
        "<svg><image xlink:href='https://example.org/a.png'/></svg>",
        "<meta http-equiv='refresh' content='0; url=https://example.org'>",
        "<a href='https://example.org'>there</a>",
        "<p onclick='go()'>here</p>",
    ],
)
def test_the_check_sees_what_asks_for_something(asking):
    assert asks_for(HARMLESS) == []
    assert asks_for(HARMLESS + asking)


def test_the_browser_runs_this_script_and_no_other(case):
    found = Page(render(Report("t", [case()], "o")))
    (policy,) = [m["content"] for m in found.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (own,) = [data for name, a, data in found.scripts if name == tag and not a]
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_hostile_names_and_texts_are_only_text(case):
    section = Section(HOSTILE, [HOSTILE], [Table([HOSTILE], [[HOSTILE], [f"**{HOSTILE}**"]])])
    plain = Page(
        render(
            Report(
                "t",
                [case()],
                "o",
                [Section("s", ["x"], [Table(["h"], [["c"], ["**c**"]])])],
                ["h"],
                {"a": "b"},
            )
        )
    )
    hostile = Page(
        render(
            Report(
                HOSTILE,
                [case(HOSTILE, [HOSTILE], HOSTILE)],
                HOSTILE,
                [section],
                [HOSTILE],
                {HOSTILE: HOSTILE},
            )
        )
    )
    assert hostile.open == []
    plain_tags = [tag for tag, _ in plain.elements]
    assert [tag for tag, _ in hostile.elements if tag not in ("td", "bdi")] == [
        tag for tag in plain_tags if tag not in ("td", "bdi")
    ]
    shown = "</script><script>alert(1)</script>\"'&amp;{{data}}<!--\\u202egnp.exe\\u2066\\x1b[2J"
    assert hostile.cases[0]["name"] == shown
    assert hostile.cases[0]["views"][2]["note"] == shown
    assert hostile.texts.count(shown) >= 10
    everything = "".join(hostile.texts + [data for *_, data in hostile.scripts])
    assert not set(everything) & set("\u202e\u2066\x1b")


def test_a_name_that_is_no_utf_8_can_be_written(case, tmp_path):
    write_report(tmp_path / "p.html", Report("t", [case("a\udcff")], "o"))
    assert Page((tmp_path / "p.html").read_text(encoding="utf-8")).cases[0]["name"] == "a\\udcff"


def test_views_lie_over_each_other(case):
    """The input in blocks, its bicubic enlargement and the files: all of one size, in their places."""
    shown = show_case(case(), 1 << 20)
    lq, bicubic, sr, hq = (decoded(view.picture) for view in shown.views)
    assert {one.shape for one in (lq, bicubic, sr, hq)} == {(32, 48, 3)}
    means = [one.reshape(8, 4, 12, 4, 3).mean((1, 3)) for one in (lq, bicubic)]
    assert np.abs(means[0] - means[1]).mean() < 8
    assert np.abs(means[0] - sr.reshape(8, 4, 12, 4, 3).mean((1, 3))).mean() > 20  # another picture
    assert (
        np.ptp(lq.reshape(8, 4, 12, 4, 3), axis=(1, 3)).mean()
        < np.ptp(bicubic.reshape(8, 4, 12, 4, 3), axis=(1, 3)).mean()
    )


def test_a_difference_map_is_the_difference_amplified(tmp_path):
    hq = torch.full((1, 3, 64, 64), 100, dtype=torch.uint8)
    sr = hq.clone()
    sr[..., 16:48, 16:48] += 20
    for name, picture in (("hq", hq), ("sr", sr)):
        write_image(tmp_path / f"{name}.png", picture)
    shown = show_case(
        Case("x", [View("sr", tmp_path / "sr.png"), View("hq", tmp_path / "hq.png")], 0, 1), 1 << 20
    )
    assert shown.change == pytest.approx(20 / 4)
    assert shown.views[1].difference == ""
    found = decoded(shown.views[0].difference)
    assert abs(found[24:40, 24:40].mean() - 20 * cases.GAIN) < 4
    assert found[:8].mean() < 4


def test_of_a_large_picture_the_part_is_shown_that_differs_most(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "FULL_SIDE", 32)
    hq = torch.full((1, 3, 96, 128), 100, dtype=torch.uint8)
    sr = hq.clone()
    sr[..., 64:, 96:] = 200
    for name, picture in (("hq", hq), ("sr", sr)):
        write_image(tmp_path / f"{name}.png", picture)
    shown = show_case(
        Case("x", [View("sr", tmp_path / "sr.png"), View("hq", tmp_path / "hq.png")], 0, 1), 1 << 20
    )
    assert shown.size == (32, 32)
    assert "32×32 of 128×96, at 96, 64" in shown.part
    assert abs(decoded(shown.views[0].picture).mean() - 200) < 3
    assert max(decoded(shown.thumbnail).shape) == cases.THUMBNAIL


def test_pictures_take_no_more_than_a_page_has_for_them(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    for name in ("sr", "hq"):
        write_image(tmp_path / f"{name}.png", torch.rand(1, 3, 256, 256, generator=generator))
    views = [View("sr", tmp_path / "sr.png"), View("hq", tmp_path / "hq.png")]
    monkeypatch.setattr(page, "PICTURE_BYTES", 60_000)
    found = Page(render(Report("t", [Case(str(i), views, 0, 1) for i in range(3)], "o")))
    size = 0
    for one in found.cases:
        assert 16 < one["width"] < 256  # smaller, and there all the same
        for view in one["views"]:
            size += sum(
                len(base64.b64decode(uri[1]))
                for uri in map(DATA.fullmatch, (view["picture"], view["difference"]))
                if uri
            )
    assert 0 < size <= 60_000
    monkeypatch.setattr(page, "MOST_CASES", 2)
    few = Page(render(Report("t", [Case(str(i), views, 0, 1) for i in range(3)], "o")))
    assert len(few.cases) == 2
    assert any(text.startswith("2 of 3 pictures are shown") for text in few.texts)


def test_an_unreadable_picture_is_named_without_its_folder(case, tmp_path):
    bad = case("bad")
    (tmp_path / "other.png").write_bytes(b"no picture")
    wrong = Case("wrong", [bad.views[2], View("HQ", tmp_path / "other.png")], 0, 1)
    write_image(tmp_path / "small.png", smooth(8, 8))
    odd = Case("odd", [bad.views[2], View("HQ", tmp_path / "small.png")], 0, 1)
    found = Page(render(Report("t", [wrong, case("good"), odd], "o")))
    assert [one["name"] for one in found.cases] == ["good"]
    said = [text for text in found.texts if text.startswith("Not shown")]
    assert "wrong" in said[0]
    assert "other.png" in said[0]
    assert "48x32" in said[0] + said[1]
    assert str(tmp_path) not in "".join(found.texts)


def test_a_result_that_was_cut_is_compared_with_the_same_part(tmp_path):
    """--cover keeps the middle: so does what the result is compared with."""
    lq = torch.zeros(1, 3, 10, 30, dtype=torch.uint8)
    lq[..., 10:20] = 200
    write_image(tmp_path / "lq.png", lq)
    write_image(tmp_path / "sr.png", torch.full((1, 3, 40, 40), 200, dtype=torch.uint8))
    for way in ("nearest", "bicubic"):
        views = [View("lq", tmp_path / "lq.png", way), View("sr", tmp_path / "sr.png")]
        assert show_case(Case("x", views, 1, 0), 1 << 20).change < 10


def test_most_changed_first(case, tmp_path):
    same = Case("same", [View("a", tmp_path / "hq.png"), View("b", tmp_path / "hq.png")], 0, 1)
    cases_ = [same, case("changed")]
    assert [c["name"] for c in Page(render(Report("t", cases_, "o", most_changed_first=True))).cases] == [
        "changed",
        "same",
    ]
    assert [c["name"] for c in Page(render(Report("t", cases_, "o"))).cases] == ["same", "changed"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("page.png", "to end in .html"),
        ("x", "to end in"),
        ("no/page.html", "no folder"),
        ("f.html", "is a folder"),
    ],
)
def test_a_place_for_no_page_is_refused(tmp_path, name, said):
    (tmp_path / "f.html").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSEDiffError, match=said):
        write_report(tmp_path / name, Report("t", [], "o"))
    assert sorted(tmp_path.iterdir()) == before


def test_an_old_page_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("old")
    monkeypatch.setattr(
        "osediff_core.whole_files.os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSEDiffError, match="could not be written"):
        write_report(path, Report("t", [], "o"))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_the_same_report_is_the_same_page(case):
    report = Report("t", [case()], "o")
    assert render(report) == render(report)

"""`osediff IN OUT --report F.html`."""

from __future__ import annotations

import json
import re

import pytest

from osediff_core.commands.console import DONE, FAILED, USAGE
from tests.self_contained import asks_for


def cases_of(path):
    text = path.read_text(encoding="utf-8")
    found = [
        json.loads(one) for one in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)
    ]
    return {one["name"]: one for one in found}


def test_a_folder_before_and_after(osediff, picture, tmp_path):
    picture("in/a.png")
    picture("in/deep/b.png", size=(6, 8))
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    status, err = osediff("in", "out", "--recursive", "--report", "page.html", "--prompt", "<b>&")
    assert status == FAILED
    assert "wrote page.html" in err
    found = cases_of(tmp_path / "page.html")
    assert set(found) == {"a.png", "deep/b.png"}
    assert (found["a.png"]["width"], found["a.png"]["height"]) == (40, 32)
    assert [view["label"] for view in found["a.png"]["views"]] == ["input", "bicubic", "restored"]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<dd><bdi>&lt;b&gt;&amp;</bdi></dd>" in text
    assert str(tmp_path) not in text
    assert asks_for(text) == []


def test_what_was_done_before_is_on_the_page_too(osediff, picture, tmp_path):
    picture("in/a.png")
    assert osediff("in", "out")[0] == DONE
    picture("in/b.png")
    assert osediff("in", "out", "--report", "page.html")[0] == DONE
    assert set(cases_of(tmp_path / "page.html")) == {"a.png", "b.png"}
    (tmp_path / "page.html").unlink()
    status, err = osediff("in", "out", "--report", "page.html")
    assert status == DONE
    assert "nothing to do" in err
    assert set(cases_of(tmp_path / "page.html")) == {"a.png", "b.png"}


def test_one_picture(osediff, picture, tmp_path):
    picture("a.png")
    assert osediff("a.png", "b.png", "--report", "page.html", "--cover", "60x32")[0] == DONE
    (only,) = cases_of(tmp_path / "page.html").values()
    assert (only["name"], only["width"], only["height"]) == ("a.png", 60, 32)


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        (["--report", "page.png"], {}, "to end in .html"),
        (["--report", "no/page.html"], {}, "no folder"),
        (["--report", "page.html", "--plan"], {}, "leave one of them out"),
        (["--report", "page.html"], {"RANK": "0", "WORLD_SIZE": "2"}, "single process"),
    ],
)
def test_a_report_that_cannot_be_is_refused_before_anything_is_restored(
    osediff, picture, tmp_path, monkeypatch, options, environment, said
):
    picture("in/a.png")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    status, err = osediff("in", "out", *options)
    assert status == USAGE
    assert said in err
    assert list(tmp_path.rglob("out/*")) == []

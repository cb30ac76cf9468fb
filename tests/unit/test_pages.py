"""Pages of which a program writes a part."""

from __future__ import annotations

import pytest

from osediff_core.errors import OSEDiffError
from train.programs.pages import write_parts


def test_a_part_is_replaced_and_the_words_around_it_stand(tmp_path):
    page = tmp_path / "page.md"
    write_parts(page, {"a": "old"})
    whole = f"before\n{page.read_text(encoding='utf-8')}behind µ\n"
    page.write_text(whole, encoding="utf-8")
    write_parts(page, {"a": "new\nlines"})
    assert page.read_text(encoding="utf-8") == whole.replace("old", "new\nlines")


@pytest.mark.parametrize("text", ["words of people", "<!-- a: written by a program -->\nno end", ""])
def test_a_page_without_the_part_is_left_as_it_is(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(OSEDiffError, match="found no such part"):
        write_parts(page, {"a": "new"})
    assert page.read_text(encoding="utf-8") == text


def test_parts_of_a_page_do_not_touch_each_other(tmp_path):
    page = tmp_path / "page.md"
    write_parts(page, {"a": "one", "b": "two"})
    write_parts(page, {"b": "three"})
    assert "one" in page.read_text()
    assert "three" in page.read_text()
    assert "two" not in page.read_text()
    before = page.read_text()
    with pytest.raises(OSEDiffError, match="c: written"):
        write_parts(page, {"a": "four", "c": "five"})
    assert page.read_text() == before

"""Each figure of the README, and each section of docs/ that measures, has its source in docs/claims.md."""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import replace

import pytest

from benchmarks import claims
from benchmarks.claims import README, ROOT, problems, read_sources, render, unclaimed


@pytest.fixture(scope="module")
def sources():
    return read_sources(ROOT)


@pytest.fixture
def copy(tmp_path):
    """The README and docs/, to be changed."""
    shutil.copy(ROOT / README, tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("pictures"))
    return tmp_path


def test_every_figure_has_a_source_and_the_page_is_that_of_the_command(sources):
    assert problems(ROOT, sources) == []
    assert (ROOT / claims.PAGE).read_text(encoding="utf-8") == render(sources)


@pytest.mark.parametrize(
    "added",
    [
        "It is 3.5 times faster.",
        "It gains 2 dB.",
        "Five minutes are enough.",
        "    osediff a b    # takes 9 seconds",
    ],
)
def test_a_figure_of_the_readme_without_a_source_is_named(copy, sources, added):
    text = (copy / README).read_text(encoding="utf-8")
    (copy / README).write_text(f"{text}\n{added}\n", encoding="utf-8")
    (found,) = problems(copy, sources)
    assert found.startswith("README.md: no source for the figure in")
    assert re.search(r"\d|Five", added)[0] in found


def test_a_changed_figure_is_named_and_so_are_the_words_that_are_gone(copy, sources):
    text = (copy / README).read_text(encoding="utf-8")
    (copy / README).write_text(text.replace("7.7 million", "9.9 million"), encoding="utf-8")
    found = problems(copy, sources)
    assert any("no source" in line and "9.9 million" in line for line in found)
    assert 'README.md: no such words: "7.7 million parameters"' in found


def test_a_section_that_measures_without_a_source_is_named(copy, sources):
    page = copy / "docs" / "data.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n## New\nIt takes 4 seconds.\n", encoding="utf-8")
    assert problems(copy, sources) == ["docs/data.md: no source for the figures of section 'New'"]
    gone = replace(sources.claims[-1], page="docs/data.md", says="Gone")
    found = problems(copy, replace(sources, claims=[*sources.claims, gone]))
    assert "docs/data.md: no section 'Gone'" in found


def test_code_addresses_and_names_are_no_figures():
    assert (
        unclaimed("`a 3` [x](b4.md) <!-- 5 --> https://a/6 SDv7\n\n    osediff --scale 8\n```\n9\n```\n", [])
        == []
    )
    assert unclaimed("a 3 b", ["a 3"]) == []
    assert unclaimed("a\n3 b", ["a 3 b"]) == []  # wherever the line breaks
    assert unclaimed("a 33 b", ["a 3"]) == ["a 33 b"]


def commands_of(text):
    return re.findall(r"`([^`]+)`", text)


def missing(command):
    """What a command names that is not there."""
    words = command.split()
    if words[:2] == ["python", "-m"]:
        return [] if importlib.util.find_spec(words[2]) else [words[2]]
    paths = [word for word in words if word.startswith(("tests", "benchmarks")) or word.endswith(".py")]
    return [path for path in paths if not (ROOT / path).exists()]


def test_the_commands_are_there(sources):
    assert [m for claim in sources.claims for c in commands_of(claim.command) for m in missing(c)] == []
    assert missing("python -m benchmarks.no_such") == ["benchmarks.no_such"]
    assert missing("pytest tests/no_such.py") == ["tests/no_such.py"]
    assert any(commands_of(claim.command) for claim in sources.claims)


def test_the_command_says_what_is_wrong_and_writes_nothing(copy, monkeypatch, capsys):
    monkeypatch.setattr(claims, "ROOT", copy)
    (copy / claims.PAGE).write_text("old")
    text = (copy / README).read_text(encoding="utf-8")
    (copy / README).write_text(text + "\n12 dB\n", encoding="utf-8")
    assert claims.main([]) == 1
    assert "12 dB" in capsys.readouterr().out
    assert (copy / claims.PAGE).read_text() == "old"
    (copy / README).write_text(text, encoding="utf-8")
    assert claims.main(["--check"]) == 0
    assert (copy / claims.PAGE).read_text() == "old"
    assert claims.main([]) == 0
    assert (copy / claims.PAGE).read_text(encoding="utf-8").startswith("# Claims\n")

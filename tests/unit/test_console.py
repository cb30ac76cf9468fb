"""What programs print: nothing that files are called or hold moves a terminal, and any console takes it."""

import io
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from osediff_core.commands.cli import main
from osediff_core.commands.console import messages, note, say, show
from osediff_core.errors import OSEDiffError, printable
from train.programs.console import OneLine

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "a\x1b]0;owned\x07\nosediff: wrote b\r\x9b2J\u202egnp\u2028c\udcff.jpg"
CARRIED = HOSTILE.replace("\udcff", "")  # pytest's processes cannot hand each other a log with half a letter


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("\udcff.jpg", r"\udcff.jpg"),
        ("\U000e0041", r"\U000e0041"),
        ("模型 é 😀\u3000ok", "模型 é 😀\u3000ok"),
        (r"C:\new\x1b", r"C:\new\x1b"),
    ],
)
def test_what_cannot_be_seen_is_escaped(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize("speak", [say, note, lambda text: show(printable(text))])
def test_a_hostile_name_stays_in_its_line(speak, capsys):
    with messages(quiet=False):
        speak(f"error: {CARRIED}")
    said = "".join(capsys.readouterr())
    assert said.count("\n") == 1
    assert said.strip().isprintable()
    assert "owned" in said


def test_lines_that_are_shown_keep_their_ends_alone(capsys):
    show("one\n\x1btwo\n\nfour")
    assert capsys.readouterr().out == "one\n\\x1btwo\n\nfour\n"


def test_the_trainer_logs_one_line_and_a_traceback_below_it():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine("%(message)s"))
    record = logging.LogRecord("train", logging.WARNING, "", 0, "skipping %s", (HOSTILE,), None)
    handler.emit(record)
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().strip().isprintable()
    record.exc_info = (ValueError, ValueError("why"), None)
    handler.emit(record)
    assert stream.getvalue().splitlines()[-1] == "ValueError: why"


def test_arguments_that_are_refused_are_escaped(capsys):
    with pytest.raises(SystemExit):
        main(["a.png", "b.png", HOSTILE])
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "encoding", ["cp1252", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ascii", "cp437"))]
)
@pytest.mark.parametrize("program", ["osediff_core", "train"])
def test_any_console_takes_any_name(tmp_path, encoding, program):
    folder = tmp_path / "模型 😀"
    folder.mkdir()
    weights = ROOT / "osediff_core" / "demo" / "osediff_demo.safetensors"
    shutil.copyfile(weights, folder / "权重.safetensors")
    (folder / "权重.toml").write_text(f'[model]\nbase = "{folder}/none"\n', encoding="utf-8")
    arguments = {
        "osediff_core": ["inspect", str(folder / "权重.safetensors")],
        "train": [str(folder / "权重.toml"), "--run.mixed_precision", "权"],
    }
    done = subprocess.run(
        [sys.executable, "-m", program, *arguments[program]],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    said = (done.stdout + done.stderr).decode("ascii" if encoding == "ascii" else encoding)
    assert done.returncode == {"osediff_core": 0, "train": 2}[program]
    assert r"\u6743" in said
    assert "Traceback" not in said


def test_streams_that_are_closed_are_no_defect(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # as `osediff ... 2>&-`
    with messages(quiet=False):
        say("nobody hears it")
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OSEDiffError, match="stdout is closed"):
        show("nobody sees it")

"""How `osediff COMMAND ...` finds its command, and what all commands have in common."""

import logging
import os
import subprocess
import sys
from types import ModuleType

import pytest

from osediff_core.commands import cli
from osediff_core.commands.cli import COMMANDS, Command, main
from osediff_core.commands.console import answer, messages, note, show
from osediff_core.device.huge_pages import SWITCH
from osediff_core.errors import OSEDiffError


@pytest.fixture
def echo(monkeypatch):
    """A command called echo, which shows its arguments; returns the names of modules imported for it."""
    module = ModuleType("osediff_core.commands.echo")
    module.main = lambda argv: answer(lambda: show(" ".join(argv)) or 0)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cli, "COMMANDS", {"echo": Command("echo", "say it again")})


def test_a_command_gets_its_arguments_and_gives_its_status(echo, capsys):
    assert main(["echo", "a", "--b"]) == 0
    assert capsys.readouterr().out == "a --b\n"


def test_help_lists_the_commands(echo, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert "osediff COMMAND" in out
    assert "echo          say it again" in out


def test_what_is_no_command_is_a_picture(echo, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["./echo", "out.png"]) == 2
    assert "no file or folder ./echo" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_answers_help_without_loading_torch(name):
    import subprocess

    code = (
        "import sys; from osediff_core.commands.cli import main\n"
        f"try: main([{name!r}, '--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'diffusers', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"usage: osediff {name}" in out.stdout
    assert out.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (OSEDiffError("a sentence"), 1, "osediff: error: a sentence\n"),
        (MemoryError(), 1, "osediff: error: there is not enough memory for this\n"),
        (RuntimeError("CUDA out of memory"), 1, "osediff: error: there is not enough memory for this\n"),
        (KeyboardInterrupt(), 130, "osediff: interrupted\n"),
    ],
)
def test_mistakes_are_sentences(capsys, error, status, says):
    def work():
        raise error

    assert answer(work) == status
    assert capsys.readouterr().err == says


def test_defects_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        answer(lambda: 1 // 0)


def test_quiet_leaves_out_notes_only(capsys):
    assert answer(lambda: note("it goes well") or 0, quiet=True) == 0
    assert capsys.readouterr().err == ""
    assert answer(lambda: note("it goes well") or 0) == 0
    assert capsys.readouterr().err == "osediff: it goes well\n"


def test_logging_is_left_as_it_was():
    logger = logging.getLogger("osediff_core")
    before = logger.level, list(logger.handlers)
    with messages(quiet=True):
        assert (logger.level, logger.handlers) != before
    assert (logger.level, logger.handlers) == before


@pytest.mark.parametrize(("given", "kept"), [(None, "1"), ("0", "0")])
def test_huge_pages_are_asked_for_before_pytorch_comes_unless_the_user_has_decided(given, kept):
    program = (
        "import os, sys\nfrom osediff_core.commands.cli import main\n"
        "try: main(['--version'])\n"
        f"finally: print(os.environ[{SWITCH!r}], 'torch' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != SWITCH}
    environment |= {} if given is None else {SWITCH: given}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == f"{kept} False"


def test_the_package_leaves_the_process_alone():
    program = f"import os, osediff_core\nosediff_core.restore\nprint(os.environ.get({SWITCH!r}))"
    environment = {name: value for name, value in os.environ.items() if name != SWITCH}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert run.stdout == "None\n"

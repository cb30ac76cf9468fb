"""What a stranger meets first: no PyTorch, the names of the package, a model that says what it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import osediff_core
from osediff_core import OSEDiff
from osediff_core.commands.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("arguments", [["a.png", "b.png"], ["inspect", "a.pkl"]])
def test_without_pytorch_one_sentence_says_how_to_get_it(tmp_path, arguments):
    """A Python that finds no torch: a finder refuses it, as the import system would."""
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "a.pkl").write_bytes(b"x")
    code = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch': raise ModuleNotFoundError('none', name='torch')\n"
        "sys.meta_path.insert(0, No())\n"
        "from osediff_core.commands.cli import main\n"
        f"sys.exit(main({arguments!r}))"
    )
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=_found())
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr.startswith("osediff: error: PyTorch is not installed: pip install torch")
    assert "Traceback" not in ran.stderr


def _found():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_another_missing_module_is_a_defect(monkeypatch):
    monkeypatch.setattr("osediff_core.commands.restore.main", lambda *_: __import__("no_such_module"))
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        main(["a.png", "b.png"])


def test_what_can_be_imported():
    for name in osediff_core.__all__:
        assert getattr(osediff_core, name) is not None
    assert re.fullmatch(r"\d+.\d+.\d+", osediff_core.__version__)
    assert (ROOT / "osediff_core" / "py.typed").is_file()
    with pytest.raises(AttributeError):
        osediff_core.no_such_name  # noqa: B018


def test_a_model_says_what_it_is_in_five_lines(model, micro):
    lines = str(model).splitlines()
    assert lines[0] == "OSEDiff"
    assert len(lines) == 5
    assert lines[1].endswith("tiny_sd")
    assert lines[2].endswith("osediff.pkl")
    assert "float32 on cpu" in lines[4]
    bare = OSEDiff(model.unet, model.vae, model.text_encoder, model.tokenizer, model.alphas_cumprod)
    assert "put together" in str(bare)


def test_the_snippet_of_readme_runs_and_unrolled_is_the_same(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"## Python\n\n```python\n(.*?)```", text, re.S)
    assert found
    program = found.group(1).replace("docs/pictures", (ROOT / "docs" / "pictures").as_posix())
    script = tmp_path / "snippet.py"
    script.write_text(
        f"{program}\nprint((sr - unrolled.mul(255)).abs().max().item(), (x * 255 - sr).abs().max().item())\n",
        encoding="utf-8",
    )
    ran = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, env=_found()
    )
    assert ran.returncode == 0, ran.stderr
    rounding, changed = map(float, ran.stdout.split())
    assert rounding <= 0.51  # of a level
    assert changed > 20
    assert (tmp_path / "coffee_sr.png").stat().st_size > 1000

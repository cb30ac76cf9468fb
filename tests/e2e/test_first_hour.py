"""What README says, done in a clean environment, in a folder with a blank in its name."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import get_type_hints

import pytest
from PIL import Image

from benchmarks.random_base import write_decoder
from osediff_core.commands import cli
from train.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
INSTALLED = sysconfig.get_path("purelib")
BIN = "Scripts" if os.name == "nt" else "bin"


def commands():
    """Every line of a page that runs `osediff`, indented as code, with what feeds it and takes from it."""
    return [(page, line) for page, line in lines() if not line.startswith("python ")]


def lines():
    """Every line of a page that runs a program of this project and is indented as code, in their order."""
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            found = re.fullmatch(r"    (?:\$ )?((?:cat \S+ \| )?osediff .*|python -m train.*)", line)
            if found and not re.match(r"osediff(:| COMMAND)", found[1]):
                yield page.name, found[1]


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_every_command_of_the_pages_is_understood(page, line, monkeypatch):
    """Its options are there, and its values may be what they are; nothing is done, for most need weights."""
    words = shlex.split(line.split(" > ")[0].split(" | ")[-1], comments=True)[1:]
    for module in {command.module for command in cli.COMMANDS.values()} | {"restore"}:
        monkeypatch.setattr(import_module(f"osediff_core.commands.{module}"), "answer", lambda *_: 0)
    assert cli.main(words) == 0, page


NOT_RUN = {
    r"osediff fetch \w": "asks the network",
    r"v2-1_512-ema-pruned\.ckpt": "needs a base of full size in one file: tests/e2e/test_full_size.py",
    r"section\.key": "says how a setting is written",
    r"demo(_\w+)?\.toml|train\.bundle|train\.demo_page|train\.ablation|train\.small_problem": "takes hours",
    r"restored/ HQ/|compare\.toml": "needs the public test sets: tests/train/test_benchmark.py",
    r"--metrics musiq": "needs the weights of its metrics",
    r"(osediff|table3_gan)\.toml(?!.*--plan)": "needs a card, and the weights of LPIPS",
    r"train\.prompts": "needs a tagger of full size: tests/train/test_prompts.py",
}
"""What no test runs as the pages have it, and why."""
if find_spec("lpips") is None:
    NOT_RUN[r"/osediff\.toml.*--plan"] = "needs the lpips extra"
if find_spec("skimage") is None:
    NOT_RUN[r"train\.pictures"] = "needs the pictures extra"


@pytest.fixture
def place(tmp_path, micro, tiny_tagger):
    """What the pages name: pictures, and the small recorded models under the names of large ones."""
    photo = Image.linear_gradient("L").resize((40, 32)).convert("RGB")
    names = ["photo.jpg", "photo.png", "a.jpg", "b.png", "photos/c.jpg", "more/d.png", "frames/000001.png"]
    for name in [*names, "holidays/sea/e.jpg", "IN/f.png", "LQ_FOLDER/g.png", "LQ/g.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        photo.save(tmp_path / name)
    (tmp_path / "path" / "to").mkdir(parents=True)
    bases = ["stable-diffusion-2-1-base-fp16", "BASE", "path/to/base", "path/to/stable-diffusion-2-1-base"]
    weights = [
        "osediff.pkl",
        "mine.safetensors",
        *(f"runs/{run}/osediff.safetensors" for run in ("mine", "paper")),
    ]
    for name in bases:
        (tmp_path / name).symlink_to(micro / "tiny_sd")
    for name in ["dape.safetensors", "tagger.safetensors"]:
        (tmp_path / name).symlink_to(tiny_tagger)
    (tmp_path / weights[0]).symlink_to(micro / "osediff.pkl")
    settings = json.loads((micro / "tiny_sd" / "vae" / "config.json").read_text("utf-8"))
    write_decoder(tmp_path / "sd21_lwdecoder.pth", settings, (4, 4, 8, 8))
    for name in ["SR/g.png", "HQ/g.png", "OTHER/g.png"]:
        (tmp_path / name).parent.mkdir()
        photo.resize((160, 128)).save(tmp_path / name)
    (tmp_path / "pictures").mkdir()
    photo.resize((100, 90)).save(tmp_path / "pictures" / "h.png")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "configs").symlink_to(ROOT / "train" / "configs")
    (tmp_path / "osediff_core").mkdir()
    (tmp_path / "osediff_core" / "demo").symlink_to(ROOT / "osediff_core" / "demo")
    shutil.copyfile(ROOT / "train" / "configs" / "smoke.toml", tmp_path / "CONFIG.toml")
    (tmp_path / "bin").mkdir()
    for name, runs in {"osediff": "-m osediff_core ", "python": ""}.items():
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {runs}"$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    shell(tmp_path, f"osediff convert {weights[0]} {weights[1]}")
    for name in weights[2:]:
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copyfile(tmp_path / weights[1], tmp_path / name)
    shell(tmp_path, "osediff LQ_FOLDER PUBLISHED_FOLDER --base BASE --weights osediff.pkl")
    return tmp_path


def shell(place, line):
    """Run a line there as a shell does; return what it said."""
    environment = os.environ | {
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
    }
    ran = subprocess.run(["sh", "-c", line], cwd=place, env=environment, capture_output=True, timeout=1800)
    assert ran.returncode == 0, f"{line}\n{ran.stderr.decode()}"
    return ran.stdout.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="runs the lines of the pages in a POSIX shell")
@pytest.mark.parametrize("page", sorted({page for page, _ in lines()}))
def test_every_command_of_a_page_runs(page, place):
    """One after the other, as they stand; each says something or leaves a file."""
    for line in [line for name, line in lines() if name == page]:
        if any(re.search(pattern, line) for pattern in NOT_RUN):
            continue
        for name in ("before.png", "restored.png", "restored.jpg", "restored", "out.png", "OUT"):
            if name in line and "osediff " in line:  # a line before left it
                shutil.rmtree(place / name, ignore_errors=True)
                (place / name).unlink(missing_ok=True)
        if line.startswith("osediff convert") and " merged_model " in line:
            shutil.rmtree(place / "merged_model", ignore_errors=True)
        before = set(place.rglob("*"))
        said = shell(place, line)
        assert said or set(place.rglob("*")) - before, line


def programs():
    """Every line of a page that runs a program of this project by Python and is indented as code."""
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            found = re.fullmatch(r"    (?:\$ )?python (-m (?:train|benchmarks)\S*|benchmarks/\S+)(.*)", line)
            if found:
                yield page.name, found[1], found[2]


def unknown(program, rest):
    """What a line names that is not there: the program, a configuration, an option. Nothing is done."""
    words = [word.strip("[]") for word in shlex.split(rest, comments=True) if word != "..."]
    name = program.removeprefix("-m ").removesuffix(".py").replace("/", ".")
    spec = find_spec(name)
    if spec is None:
        return [name]
    gone = [word for word in words if "/configs/" in word and not (ROOT / word).is_file()]
    place = Path(spec.submodule_search_locations[0] if spec.submodule_search_locations else spec.origin)
    files = [*place.glob("*.py")] if place.is_dir() else [place]
    for rooms in re.findall(r"^from \.(\w+)\.(\w+) import", files[0].read_text("utf-8"), re.MULTILINE):
        files.append(place.parent.joinpath(*rooms).with_suffix(".py"))  # where a program of one line goes
    source = "".join(file.read_text("utf-8") for file in files if file.is_file())
    settings = {
        f"--{a.name}.{b.name}"
        for a in fields(TrainConfig)
        for b in fields(get_type_hints(TrainConfig)[a.name])
    }
    known = {"--help", "--section.key", *settings} if name == "train" else {"--help"}
    options = [word for word in words if word.startswith("--")]
    return gone + [word for word in options if word not in known and f'"{word}"' not in source]


@pytest.mark.parametrize(("page", "program", "rest"), sorted(set(programs())))
def test_every_program_of_the_pages_is_there_with_its_options(page, program, rest):
    assert unknown(program, rest) == [], page


def test_what_is_not_there_is_seen():
    assert unknown("-m train.no_such", "") == ["train.no_such"]
    assert unknown("-m train", "train/configs/no_such.toml --run.stepz 3") == [
        "train/configs/no_such.toml",
        "--run.stepz",
    ]
    assert unknown("-m train.evaluate", "SR HQ --no-such") == ["--no-such"]
    assert len(set(programs())) > 20


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The files that git has, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("what is cloned is what git has, and this is no git checkout")
    folder = tmp_path_factory.mktemp("first hour") / "a clone"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def environment(folder, *, full):
    """Make a clean environment; full: it finds the libraries of this one, but not this project."""
    venv.create(folder, with_pip=full)
    python = folder / BIN / ("python.exe" if os.name == "nt" else "python")
    if full:  # with this one's setuptools, for an old one comes along with pip
        said(python, "-m", "pip", "uninstall", "--yes", "setuptools")
        Path(purelib(python), "these.pth").write_text(INSTALLED)
    return python


def purelib(python):
    return said(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()


def said(program, *words, cwd=None, status=0, stream="stdout"):
    quiet = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    offline = {"PIP_NO_BUILD_ISOLATION": "false", "PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [str(program), *map(str, words)], cwd=cwd, capture_output=True, text=True, env=quiet | offline
    )
    assert ran.returncode == status, ran.stdout + ran.stderr
    return getattr(ran, stream)


@pytest.mark.slow
def test_the_first_command_restores_the_example_and_keeps_the_torch_that_is_there(clone):
    environment(clone / ".venv", full=True)
    before = said(sys.executable, "-c", "import torch; print(torch.__file__)")
    said(sys.executable, "dev.py", "demo", cwd=clone)
    result = clone / "out" / "coffee_sr.png"
    assert result.stat().st_size > 100_000
    osediff = clone / ".venv" / BIN / "osediff"
    place = said(clone / ".venv" / BIN / "python", "-c", "import torch; print(torch.__file__)")
    assert place == before
    again = said(
        osediff, "docs/pictures/coffee_lq.png", "out/coffee_sr.png", cwd=clone, status=2, stream="stderr"
    )
    assert "say --overwrite" in again


@pytest.mark.slow
def test_a_wheel_restores_the_example_from_another_folder(clone, tmp_path):
    said(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, clone)
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "else where"
    place.mkdir()
    shutil.copyfile(clone / "docs" / "pictures" / "coffee_lq.png", place / "a photo.png")
    run = ("-m", "osediff_core", "a photo.png", "restored.png")

    bare = environment(tmp_path / "nothing", full=False)
    said(sys.executable, "-m", "pip", "--python", bare, "install", "--no-deps", wheel)
    assert "is not installed: pip install" in said(bare, *run, cwd=place, status=1, stream="stderr")

    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for found in Path(INSTALLED).iterdir():
        if not found.name.startswith("torch") and found.suffix != ".pth":
            (libraries / found.name).symlink_to(found)
    Path(purelib(bare), "these.pth").write_text(str(libraries))
    assert "PyTorch is not installed: pip install torch" in said(
        bare, *run, cwd=place, status=1, stream="stderr"
    )

    full = environment(tmp_path / "with torch", full=True)
    said(sys.executable, "-m", "pip", "--python", full, "install", "--no-deps", "--ignore-installed", wheel)
    home = said(
        full, "-c", "import osediff_core, train; print(osediff_core.__file__, train.__file__)", cwd=place
    )
    assert str(ROOT) not in home
    said(full, *run, cwd=place)
    assert (place / "restored.png").stat().st_size > 100_000
    assert "loss.lambda-vsd" in said(full, "-m", "train", "--help", cwd=place).replace(
        "lambda_vsd", "lambda-vsd"
    )

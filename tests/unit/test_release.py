"""What is published: a valid node, an archive of what is used, addresses that are all filled in or none."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest

import osediff_core

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PLACEHOLDER = "OWNER"  # of the account that publishes
SHIPPED = {
    *("__init__.py", "nodes", "osediff_core", "train", "benchmarks", "example_workflows", "subgraphs"),
    *("locales", "web"),
    *("docs", "README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "NOTICE"),
    *("pyproject.toml", "requirements.txt"),
}
MOST_MEGABYTES = 20  # the demo's weights are 14 of them


def comfy(*command: str, cwd: Path) -> str:
    """Run comfy-cli and return what it says."""
    pytest.importorskip("comfy_cli", reason="comfy-cli is not installed (the dev extra brings it)")
    ran = subprocess.run(
        [sys.executable, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry", *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The files that git has, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("what is packed is what git has, and this is no git checkout")
    folder = tmp_path_factory.mktemp("release")
    for name in listed.stdout.split("\0"):
        source, target = ROOT / name, folder / name
        if name and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def test_the_registry_accepts_the_node(copy):
    said = comfy("node", "validate", cwd=copy)
    assert "Security warnings" not in said, said
    assert "Warning" not in said, said


def test_the_archive_holds_what_is_used_and_no_more(copy):
    comfy("node", "pack", cwd=copy)
    archive = copy / "node.zip"
    names = zipfile.ZipFile(archive).namelist()
    assert {name.split("/")[0] for name in names} == SHIPPED
    assert not [name for name in names if name.startswith(("train/small_problem", "train/configs/small"))]
    assert any(re.fullmatch(r"osediff_core/demo/.*\.safetensors", name) for name in names)
    assert archive.stat().st_size < MOST_MEGABYTES * 10**6


def test_the_wheel_holds_what_its_extras_promise():
    """Every package, and every file beside modules: a wheel has what is named, and no more."""
    setuptools = PROJECT["tool"]["setuptools"]
    assert setuptools["packages"]["find"]["include"] == ["osediff_core*", "train*"]
    for package, patterns in setuptools["package-data"].items():
        folder = ROOT / package
        beside = {path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
        assert beside <= {path for pattern in patterns for path in folder.glob(pattern)}
        assert all((path / "__init__.py").is_file() for path in {m.parent for m in folder.rglob("*.py")})


def test_the_wheel_holds_core_and_trainer_and_no_study():
    setuptools = pytest.importorskip("setuptools", reason="setuptools is not installed, which builds wheels")
    found = setuptools.find_namespace_packages(str(ROOT), **PROJECT["tool"]["setuptools"]["packages"]["find"])
    assert {"osediff_core.network", "train.evaluation"} <= set(found)
    assert not [name for name in found if "small_problem" in name]


def test_torch_is_asked_for_by_nobody():
    listed = (ROOT / "requirements.txt").read_text().split()
    assert listed == PROJECT["project"]["dependencies"]
    assert not [line for line in listed if re.match(r"(torch|torchvision|torchaudio)\b", line)]
    assert not [line for line in listed if "<" in line or "==" in line]


def test_addresses_are_all_filled_in_or_none_is():
    """The warning is read in the summary of a run until somebody publishes."""
    comfy_table = PROJECT["tool"]["comfy"]
    addresses = [*PROJECT["project"]["urls"].values(), comfy_table["Icon"], comfy_table["Banner"]]
    assert all(address.startswith("https://") for address in addresses)
    waiting = [address for address in addresses if PLACEHOLDER in address]
    assert waiting in ([], addresses)
    for name in ("Icon", "Banner"):
        assert (ROOT / comfy_table[name].split("/main/")[1]).is_file()
    if waiting:
        warnings.warn(f"{PLACEHOLDER} in pyproject.toml waits for an account", stacklevel=1)


def test_a_version_is_one_that_a_tag_can_name():
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["project"]["version"])
    assert osediff_core.__version__ == PROJECT["project"]["version"]
    publish = (ROOT / ".github" / "workflows" / "publish.yml").read_text()
    assert '"v*"' in publish
    assert f"grep -n {PLACEHOLDER}" in publish


COMFYUI_HAS = {"PIL", "numpy", "safetensors", "torch", "transformers"}


def test_the_job_for_comfyui_installs_what_its_tests_import():
    """What it lacks would end it before its first test, or skip what needs it."""
    job = (ROOT / ".github" / "workflows" / "comfyui.yml").read_text()
    (line,) = re.findall(r"pip install (pytest .*)", job)
    installed = {{"websocket-client": "websocket"}.get(name, name) for name in line.split()}
    named = [ROOT / name for name in re.findall(r"tests/e2e/\S+\.py", job)]
    assert named
    asked = set()
    for path in (*named, ROOT / "tests" / "conftest.py", *(ROOT / "tests" / "e2e").glob("co*.py")):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                asked |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                asked.add(node.module.split(".")[0])
        asked |= {name.split(".")[0] for name in re.findall(r'importorskip\("([^"]+)"', source)}
    assert asked - set(sys.stdlib_module_names) - COMFYUI_HAS - installed <= {"osediff_core", "benchmarks"}

"""The arrows of docs/architecture.md, read from the imports of every module."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("osediff_core", "train", "nodes")
ALLOWED = {
    "osediff_core": {"osediff_core"},
    "train": {"train", "osediff_core"},
    "nodes": {"nodes", "osediff_core"},
}
COMFY = re.compile(r"^(comfy|comfy_\w+|folder_paths|latent_preview|server)$")
TRAINING_ONLY = {"accelerate", "peft", "lpips", "tyro", "tensorboard", "diffusers"}
MEASURING_ONLY = {"torchmetrics", "torch_fidelity", "piq", "pyiqa", "spandrel", "rapidocr", "dlib"}
NEVER_IN_CORE_OR_NODES = TRAINING_ONLY | MEASURING_ONLY | {"torchvision", "timm"}
HEAVY = {"diffusers", "transformers", "timm", "peft", "accelerate", "torchvision", "lpips"}
LAYERS = [
    {"errors", "choices", "limits", "whole_files", "text_files"},
    {"diffusion", "lora", "color", "resize", "sizes", "transparency", "inputs", "prompt_cache", "device"},
    {"network"},
    {"weights"},
    {"vae"},
    {"pictures"},
    {"report"},
    {"base"},
    {"prompts"},
    {"model"},
    {"pipeline"},
    {"__init__"},
    {"tools"},
    {"commands"},
    {"__main__"},
]
"""Modules and packages of the core, bottom up: each imports only from layers at or below its own."""

TRAINER = [
    {"__init__", "programs", "randomness", "networks", "prompts"},
    {"degradation", "evaluation", "optim", "pictures"},
    {"data", "objectives"},
    {"config"},
    {"watch"},
    {"engine"},
    {"base"},
    {"demo", "small_problem"},
    {
        "__main__",
        "ablation",
        "benchmark",
        "bundle",
        "contact_sheet",
        "demo_evaluation",
        "demo_page",
        "evaluate",
    },
]
"""Rooms of the trainer, bottom up. A `__main__` inside a room is a program, and stands at the top."""

ROOMS = 25
"""So many a reader can overlook."""

EVALUATION = [
    {"fidelity", "metric_table", "pairs", "statistics", "seeds", "published", "artifacts", "recognition"},
    {"data_sets", "measures"},
    {"scores", "methods"},
    {"tables", "restoring"},
    {"comparison", "charts"},
    {"looking"},
]
"""Modules of train/evaluation, bottom up, as its docstring has them."""

SMALL_PROBLEM = [{"textures"}, {"base", "measures"}, {"runs"}, {"tables"}, {"__main__"}]
"""Modules of train/small_problem, bottom up."""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path, tree: ast.AST) -> list[tuple[str, ast.AST]]:
    """Every imported module by its absolute name, relative imports resolved."""
    here = path.relative_to(ROOT).with_suffix("").parts
    found: list[tuple[str, ast.AST]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names] if node.module is None else [stem]
            found += [(name, node) for name in names]
    return found


def violations(path: Path, source: str) -> list[str]:
    """What a module imports that its package may not."""
    package = path.relative_to(ROOT).parts[0]
    bad = []
    tree = ast.parse(source)
    lazy = {
        id(n)
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
        for n in ast.walk(f)
    }
    typing_only = {
        id(n)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for n in ast.walk(block)
    }
    for name, node in imports(path, tree):
        top = name.split(".")[0]
        if top in PACKAGES and top not in ALLOWED[package]:
            bad.append(f"{package} imports {name}")
        if COMFY.match(top) and package != "nodes":
            bad.append(f"{package} imports {name}, which only nodes may")
        if top in NEVER_IN_CORE_OR_NODES and package != "train":
            bad.append(f"{package} imports {name}, which only train may")
        outside_function = id(node) not in lazy and id(node) not in typing_only
        if top in HEAVY and package != "train" and outside_function:
            bad.append(f"{package} imports {name} at module level")
        if package == "nodes" and top in PACKAGES and not getattr(node, "level", 0):
            bad.append(f"nodes imports {name} absolutely")
    return bad


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_between_packages(package):
    found = modules(package)
    assert found
    assert [v for path in found for v in violations(path, path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("osediff_core/x.py", "import train.engine.loop"),
        ("osediff_core/x.py", "from nodes import loader"),
        ("osediff_core/x.py", "import comfy.utils"),
        ("osediff_core/x.py", "import diffusers"),
        ("osediff_core/x.py", "def f():\n    import peft"),
        ("train/x.py", "import folder_paths"),
        ("train/x.py", "from ..nodes import loader"),
        ("osediff_core/x.py", "def f():\n    import torchmetrics"),
        ("nodes/x.py", "import osediff_core"),
        ("nodes/x.py", "from ..train import loop"),
        ("nodes/x.py", "import transformers"),
    ],
)
def test_the_check_sees_a_wrong_arrow(where, source):
    assert violations(ROOT / where, source)


def test_layers_inside_the_core():
    level = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    for path in (ROOT / "osediff_core").rglob("*.py"):
        own = path.relative_to(ROOT / "osediff_core").with_suffix("").parts[0]  # a package is one place
        assert own in level, f"{own} has no place in LAYERS"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, _ in imports(path, tree):
            parts = name.split(".")
            if parts[0] == "osediff_core" and len(parts) > 1 and parts[1] in level:
                assert level[parts[1]] <= level[own], f"{own} imports {parts[1]}"


def test_layers_of_the_trainer():
    level = {name: i for i, layer in enumerate(TRAINER) for name in layer}
    folder = ROOT / "train"
    there = {path.parent.name for path in folder.glob("*/*.py")} | {path.stem for path in folder.glob("*.py")}
    assert there == set(level)
    assert len(there) <= ROOMS
    found = 0
    for path in folder.rglob("*.py"):
        own = path.relative_to(folder).with_suffix("").parts
        mine = len(TRAINER) - 1 if own[-1] == "__main__" else level[own[0]]
        for name, _ in imports(path, ast.parse(path.read_text(encoding="utf-8"))):
            parts = name.split(".")
            if parts[0] == "train" and len(parts) > 1:
                found += 1
                assert level[parts[1]] <= mine, f"{'.'.join(own)} imports {name}"
    assert found > len(there)


def module_graph(package: str) -> dict[str, set[str]]:
    """Which modules of a package each imports, when it is loaded, later, or for the type checker."""
    paths = {}
    for path in modules(package):
        parts = path.relative_to(ROOT).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {}
    for module, path in paths.items():
        said = set()
        for name, node in imports(path, ast.parse(path.read_text(encoding="utf-8"))):
            of = [f"{name}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            said |= {one if one in paths else name for one in of or [name]}
        graph[module] = (said & paths.keys()) - {module}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules that import each other in a circle, or lead to one: what has no bottom."""
    left = dict(graph)
    while ends := [module for module, others in left.items() if not others & left.keys()]:
        left = {module: others for module, others in left.items() if module not in ends}
    return sorted(left)


def test_the_trainer_has_no_circle():
    graph = module_graph("train")
    assert graph["train.engine.loop"] > {"train.config", "train.engine.steps"}
    assert circle(graph) == []


def test_a_circle_is_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"a"}}) == []
    assert circle({"a": {"b"}, "b": {"a", "c"}, "c": set()}) == ["a", "b"]


def test_names_from_before_lead_to_the_same_modules():
    import train.losses

    import train
    from train import loop
    from train.engine import loop as moved

    assert loop is moved
    assert train.losses is sys.modules["train.objectives"]
    places = [ROOT / "train" / new.replace(".", "/") for new in train.MOVED.values()]
    assert all(place.is_dir() or place.with_suffix(".py").is_file() for place in places)
    assert not any((ROOT / "train" / f"{old}.py").exists() for old in train.MOVED)


@pytest.mark.parametrize(
    ("package", "layers"), [("evaluation", EVALUATION), ("small_problem", SMALL_PROBLEM)]
)
def test_layers_inside_packages_of_the_trainer(package, layers):
    level = {name: i for i, layer in enumerate(layers) for name in layer}
    folder = ROOT / "train" / package
    assert {path.stem for path in folder.glob("*.py")} == {*level, "__init__"}
    found = 0
    for own in level:
        path = folder / f"{own}.py"
        for name, _ in imports(path, ast.parse(path.read_text(encoding="utf-8"))):
            parts = name.split(".")
            assert parts[:2] not in (["train", "evaluate"], ["train", "benchmark"]), f"{own} imports {name}"
            if parts[:2] == ["train", package]:
                found += 1
                assert level[parts[2]] <= level[own], f"{own} imports {parts[2]}"
    assert found >= len(level)


def test_the_evaluation_loads_no_library_before_it_measures():
    import subprocess

    names = sorted(MEASURING_ONLY)
    code = f"import sys, train.evaluate, train.benchmark; print([m for m in {names!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_importing_the_core_loads_no_heavy_library():
    import subprocess

    code = f"import sys, osediff_core; print([m for m in {sorted(HEAVY)!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_requirements_are_the_runtime_dependencies():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.S | re.M)
    assert block
    declared = re.findall(r'"([^"]+)"', block.group(1))
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == declared
    assert not [d for d in declared if re.match(r"torch|torchvision|torchaudio\b", d)]
    assert not [d for d in declared if re.search(r"[<=~]=|<", d.replace(">=", ""))], (
        "floors only, no upper pins"
    )
    assert _moved(declared, COMFYUI_THEN) == []


# What pip gave with ComfyUI 0.3.64, the oldest that is supported, when it was new (October 2025).
COMFYUI_THEN = ["numpy>=2.2", "transformers>=4.56", "safetensors>=0.6", "pillow>=11.3", "tqdm>=4.67"]


def _moved(ours: list[str], theirs: list[str]) -> list[str]:
    """What of our requirements would bring a package, or move one of at least that version."""
    floors = dict(_floor(line) for line in theirs)
    asked = {line: _floor(line) for line in ours}
    return [line for line, (name, floor) in asked.items() if name not in floors or floor > floors[name]]


def _floor(requirement: str) -> tuple[str, tuple[int, ...]]:
    name, _, version = requirement.partition(">=")
    return name, tuple(int(part) for part in version.split(".") if part)


def test_our_requirements_move_nothing_in_the_comfyui_that_is_here():
    """To be run by the Python of the ComfyUI that COMFYUI_PATH names."""
    if not os.environ.get("COMFYUI_PATH"):
        pytest.skip("COMFYUI_PATH names no ComfyUI, whose Python would be asked what it would install")
    command = ["-m", "pip", "install", "--dry-run", "--no-index", "-r", str(ROOT / "requirements.txt")]
    ran = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "Would install" not in ran.stdout


@pytest.mark.parametrize("line", ["diffusers", "transformers>=5.0", "pillow>=12", "huggingface_hub>=0.25"])
def test_the_check_sees_what_would_move(line):
    assert _moved([line], COMFYUI_THEN) == [line]


def classes(sources: dict[str, str]) -> dict[str, list[str]]:
    """Where each class of a module is defined that does not begin with an underscore."""
    found: dict[str, list[str]] = {}
    for name, source in sources.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(name)
    return found


def test_a_class_has_a_name_of_its_own():
    sources = {str(path): path.read_text("utf-8") for package in PACKAGES for path in modules(package)}
    assert {name: where for name, where in classes(sources).items() if len(where) > 1} == {}
    assert classes({"a": "class A: ...", "b": "class A: ..."}) == {"A": ["a", "b"]}

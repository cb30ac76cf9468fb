"""A real ComfyUI server for the session; without COMFYUI_PATH its tests are skipped."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONG_SIDE = 149  # of the photograph, which Shrink then leaves as it is


@pytest.fixture(scope="session")
def comfy_server():
    """The module comfy_server.py."""
    place = Path(__file__).with_name("comfy_server.py")
    spec = importlib.util.spec_from_file_location("comfy_server", place)
    module = sys.modules["comfy_server"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def comfy_path():
    """The ComfyUI checkout that COMFYUI_PATH names."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.skip("set COMFYUI_PATH (and COMFYUI_PYTHON) to run the pack in a real ComfyUI")
    return Path(path)


@pytest.fixture(scope="session")
def comfy_python():
    """The Python that has ComfyUI's requirements."""
    return os.environ.get("COMFYUI_PYTHON", sys.executable)


@pytest.fixture(scope="session")
def in_comfy(comfy_path, comfy_python, tmp_path_factory):
    """A function that runs a script of in_comfy/ inside ComfyUI's Python, and gives what it printed."""

    def run(script: str, *arguments: str, seconds: float = 600):
        command = [comfy_python, str(Path(__file__).parent / "in_comfy" / f"{script}.py")]
        command += [str(comfy_path), str(ROOT), *arguments]
        folder = tmp_path_factory.mktemp(script)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def start(comfy_server, comfy_path, comfy_python, tmp_path_factory):
    """A function that starts a server with these flags, for a `with` block.

    It has the pack, and the micro model where extra_model_paths.yaml says.
    """

    @contextmanager
    def start(*flags: str):
        base = tmp_path_factory.mktemp("comfyui")
        server = comfy_server.Server(comfy_path, comfy_python, base, flags)
        try:
            micro = ROOT / "tests" / "golden_micro"
            shutil.copytree(micro / "tiny_sd", base / "elsewhere" / "bases" / "tiny_sd")
            (base / "elsewhere" / "weights").mkdir()
            shutil.copy(micro / "osediff.pkl", base / "elsewhere" / "weights")
            server.wait_until_ready()
            yield server
        finally:
            server.stop()

    return start


@pytest.fixture(scope="session")
def server(start):
    """The server that most tests share."""
    with start("--cpu") as server:
        yield server


@pytest.fixture(scope="session")
def photo(server):
    """A photograph of odd size in the server's input folder, small enough for a CPU: 149 x 107."""
    from PIL import Image

    with Image.open(ROOT / "docs" / "pictures" / "coffee_lq.png") as coffee:
        picture = coffee.convert("RGB").resize((LONG_SIDE, 107), Image.Resampling.LANCZOS)
    place = server.base / "input" / "photo.png"
    picture.save(place)
    return place


@pytest.fixture
def graph(server, comfy_server, photo):
    """A function that gives an example workflow in the API format, on the photograph, on a given model."""

    def make(name: str, loader: dict | None = None):
        workflow = json.loads((ROOT / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))
        graph = comfy_server.to_api(workflow, server.get("/object_info"))
        graph[comfy_server.find(graph, "LoadImage")]["inputs"]["image"] = photo.name
        graph[comfy_server.find(graph, "ImageScaleToMaxDimension")]["inputs"]["largest_size"] = LONG_SIDE
        graph[comfy_server.find(graph, "OSEDiffLoader")]["inputs"].update(loader or {})
        return graph

    return make

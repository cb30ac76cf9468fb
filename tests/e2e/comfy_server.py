"""Start a real ComfyUI with only this pack in it, queue graphs, read what happened. Standard library only."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEMO = "demo (comes with the pack)"
TAGGER = "osediff_dape.safetensors"  # the name in the example workflow
MICRO = {"base": "tiny_sd", "weights": "osediff.pkl", "dtype": "auto", "strength": 1.0}
WIDGETS = {"COMBO", "INT", "FLOAT", "STRING", "BOOLEAN"}


@dataclass
class Run:
    """One queued graph: its end ("success", "error" or "interrupted"), and what led to it."""

    status: str
    outputs: dict[str, Any]
    cached: set[str] = field(default_factory=set)
    error: str = ""


class RejectedError(Exception):
    """ComfyUI did not queue the graph, or not all of it; the text holds every sentence that it gave."""


class Server:
    """A ComfyUI server on a free port, with a base folder of its own."""

    def __init__(self, comfy: Path, python: str, base: Path, flags: Sequence[str] = ("--cpu",)) -> None:
        self.base, self.client = base, uuid.uuid4().hex
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for folder in (
            "custom_nodes",
            "input",
            "output",
            "models/osediff",
            "models/osediff_dape",
            "models/diffusers",
            "elsewhere",
        ):
            (base / folder).mkdir(parents=True)
        places = f"tests:\n  base_path: {base / 'elsewhere'}\n  osediff: weights\n  diffusers: bases\n"
        (base / "extra_model_paths.yaml").write_text(places)
        shutil.copy(comfy / "input" / "example.png", base / "input")
        os.symlink(ROOT, base / "custom_nodes" / "osediff", target_is_directory=True)
        command = [python, "main.py", *flags, "--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
        command += ["--extra-model-paths-config", str(base / "extra_model_paths.yaml")]
        command += ["--disable-auto-launch", "--disable-api-nodes", "--disable-metadata"]
        self.log = base / "comfy.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=comfy, stdout=log, stderr=subprocess.STDOUT)

    def wait_until_ready(self, seconds: float = 180) -> None:
        """Return when the server answers; raise with the end of its log when it does not."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.5)
        raise RuntimeError(f"ComfyUI did not start; the end of its log:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        self.process.wait(30)

    def fetch(self, path: str, data: Any = None) -> bytes:
        """The body of an answer; `data` is posted as JSON."""
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return answer.read()

    def get(self, path: str) -> Any:
        """An answer as JSON."""
        return json.loads(self.fetch(path))

    def queue(self, graph: dict[str, Any], client: str | None = None) -> str:
        """Queue a graph in the API format, as another client or as the usual one; return its id."""
        try:
            answer = json.loads(self.fetch("/prompt", {"prompt": graph, "client_id": client or self.client}))
        except urllib.error.HTTPError as error:
            raise RejectedError(error.read().decode()) from error
        if answer["node_errors"]:  # the other branches of the graph are run all the same
            raise RejectedError(json.dumps(answer["node_errors"]))
        return answer["prompt_id"]

    def wait(self, prompt_id: str, seconds: float = 300) -> Run:
        """The end of a queued graph."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return _read(history[prompt_id])
            time.sleep(0.1)
        raise TimeoutError(f"the graph did not end in {seconds} s; the log:\n{self.log.read_text()[-3000:]}")

    def run(self, graph: dict[str, Any]) -> Run:
        """Queue a graph and wait for its end."""
        return self.wait(self.queue(graph))

    def picture(self, run: Run, node: str, folder: Path) -> Path:
        """The first picture that a node saved, as a file."""
        saved = run.outputs[node]["images"][0]
        names = {key: saved[key] for key in ("filename", "subfolder", "type")}
        place = folder / f"{uuid.uuid4().hex}.png"
        place.write_bytes(self.fetch("/view?" + urllib.parse.urlencode(names)))
        return place


def _read(entry: dict[str, Any]) -> Run:
    run = Run(entry["status"]["status_str"], entry["outputs"])
    for event, data in entry["status"]["messages"]:
        if event == "execution_cached":
            run.cached = set(data["nodes"])
        elif event == "execution_interrupted":
            run.status = "interrupted"
        elif event == "execution_error":
            run.error = f"{data['exception_type']}: {data['exception_message'].strip()}"
    return run


def to_api(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """The API format of a saved workflow: the page does this when Run is pressed."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        info = object_info.get(node["type"])
        if info is None:  # a note lives in the page alone
            continue
        wired = {put["name"]: links[put["link"]] for put in node["inputs"] if put["link"] is not None}
        values = iter(node["widgets_values"])
        specs = info["input"].get("required", {}) | info["input"].get("optional", {})
        names = [name for name, spec in specs.items() if isinstance(spec[0], list) or spec[0] in WIDGETS]
        widgets = {name: next(values) for name in names}
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": widgets | wired}
    return graph


def find(graph: dict[str, Any], class_type: str) -> str:
    """The id of the one node of a type."""
    (found,) = [name for name, node in graph.items() if node["class_type"] == class_type]
    return found

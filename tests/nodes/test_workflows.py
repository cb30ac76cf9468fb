"""The example workflows: whole, on the demo, and accepted by comfy-cli with a cut of a real object_info."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OBJECT_INFO = ROOT / "tests" / "nodes" / "object_info.json"
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def comfy_cli() -> str:
    """The command of comfy-cli, beside this Python or on the path."""
    found = shutil.which("comfy", path=str(Path(sys.executable).parent)) or shutil.which("comfy")
    if found is None:
        pytest.skip("comfy-cli is not installed (the dev extra brings it)")
    return found


def validate(place: Path, home: Path) -> subprocess.CompletedProcess:
    """`comfy workflow validate`, offline."""
    command = [
        comfy_cli(),
        "--skip-prompt",
        "workflow",
        "validate",
        "--workflow",
        str(place),
        "--input",
        str(OBJECT_INFO),
    ]
    environment = {**os.environ, "HOME": str(home), "DO_NOT_TRACK": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=home)


def test_there_is_a_graph_in_steps_one_of_one_node_and_one_with_tags():
    assert [path.stem for path in WORKFLOWS] == ["osediff_dape", "osediff_one_node", "osediff_steps"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_whole(path, nodes, pack):
    workflow = load(path)
    by_id = {node["id"]: node for node in workflow["nodes"]}
    assert workflow["version"] == 0.4
    assert workflow["last_node_id"] == max(by_id)
    for link, source, slot, target, place, kind in workflow["links"]:
        assert link in by_id[source]["outputs"][slot]["links"]
        assert by_id[target]["inputs"][place]["link"] == link
        assert by_id[source]["outputs"][slot]["type"] == by_id[target]["inputs"][place]["type"] == kind
    for node in workflow["nodes"]:
        if node["type"].startswith("OSEDiff"):
            schema = nodes[node["type"]].define_schema()
            assert node["properties"]["cnr_id"] == "osediff"
            values = [put for put in schema.inputs if hasattr(put, "arguments")]
            assert len(node["widgets_values"]) == len(values)
    loader = next(node for node in workflow["nodes"] if node["type"] == "OSEDiffLoader")
    demo = sys.modules[f"{pack.__name__}.nodes.paths"].DEMO
    assert loader["widgets_values"][:2] == [demo, demo]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_a_picture(path):
    picture = path.with_suffix(".jpg")
    assert picture.read_bytes()[:3] == b"\xff\xd8\xff"
    assert picture.stat().st_size < 200_000


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_comfy_cli_accepts_a_workflow(path, tmp_path):
    run = validate(path, tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(("position", "value"), [(0, "no such base"), (2, "int3")])
def test_comfy_cli_refuses_a_wrong_value(position, value, tmp_path):
    """The negative control of the test above."""
    workflow = load(WORKFLOWS[0])
    loader = next(node for node in workflow["nodes"] if node["type"] == "OSEDiffLoader")
    loader["widgets_values"][position] = value
    place = tmp_path / "wrong.json"
    place.write_text(json.dumps(workflow))
    run = validate(place, tmp_path)
    assert run.returncode == 1
    assert value in run.stdout + run.stderr

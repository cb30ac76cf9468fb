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
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))


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


def nodes_of(workflow: dict, kind: str) -> list[dict]:
    return [node for node in workflow["nodes"] if node["type"] == kind]


def is_widget(spec: list) -> bool:
    """Whether an input of /object_info is set on the node, and not by a wire alone."""
    return isinstance(spec[0], list) or spec[0] in {"COMBO", "INT", "FLOAT", "STRING", "BOOLEAN"}


def widgets_of(kind: str) -> dict[str, dict]:
    """Names and options of what is set on a node of a core or own type."""
    info = json.loads(OBJECT_INFO.read_text(encoding="utf-8"))[kind]["input"]
    specs = info.get("required", {}) | info.get("optional", {})
    return {name: spec[1] if len(spec) > 1 else {} for name, spec in specs.items() if is_widget(spec)}


def values_of(kind: str) -> int:
    """How many widget values a node of a core or own type saves.

    The page adds one to a seed (what happens to it after a run) and one to a picture (the upload).
    """
    options = widgets_of(kind).values()
    extra = sum(bool(o.get("control_after_generate")) + bool(o.get("image_upload")) for o in options)
    return len(options) + extra


def test_there_is_a_graph_for_each_way_of_working():
    assert [path.stem for path in BLUEPRINTS] == ["OSEDiff x4"]
    assert {path.stem for path in WORKFLOWS} == {
        "osediff_compare",
        "osediff_dape",
        "osediff_enhance",
        "osediff_large",
        "osediff_native",
        "osediff_one_node",
        "osediff_steps",
        "osediff_tags_by_hand",
    }


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_whole(path, nodes, pack):
    workflow = load(path)
    by_id = {node["id"]: node for node in workflow["nodes"]}
    assert workflow["version"] == 0.4
    assert workflow["last_node_id"] == max(by_id)
    for link, source, slot, target, place, kind in workflow["links"]:
        assert link in by_id[source]["outputs"][slot]["links"]
        assert by_id[target]["inputs"][place]["link"] == link
        assert by_id[source]["outputs"][slot]["type"] == kind
        assert by_id[target]["inputs"][place]["type"] in {kind, "*"}
    wired = {link[0] for link in workflow["links"]}
    for node in workflow["nodes"]:
        ends = [put["link"] for put in node["inputs"]] + [
            n for o in node["outputs"] for n in o["links"] or []
        ]
        assert {end for end in ends if end is not None} <= wired
        if node["type"] == "MarkdownNote":
            continue
        ours = node["type"].startswith("OSEDiff")
        assert node["properties"]["cnr_id"] == ("osediff" if ours else "comfy-core")
        assert node["properties"]["ver"]
        assert len(node["widgets_values"]) == values_of(node["type"])
        if ours:
            schema = nodes[node["type"]].define_schema()
            values = [put for put in schema.inputs if hasattr(put, "arguments")]
            assert len(node["widgets_values"]) == len(values)
            assert [put["name"] for put in node["outputs"]] == [put.display_name for put in schema.outputs]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_starts_on_what_everyone_has_or_names_its_models(path, pack):
    workflow = load(path)
    demo = sys.modules[f"{pack.__name__}.nodes.paths"].DEMO
    for loader in nodes_of(workflow, "OSEDiffLoader"):
        assert loader["widgets_values"][:2] == [demo, demo]
    named = {"CheckpointLoaderSimple": "checkpoints", "OSEDiffApply": "osediff"}
    for node in workflow["nodes"]:
        if node["type"] in named:
            (model,) = node["properties"]["models"]
            assert model["name"] == node["widgets_values"][0]
            assert model["url"].startswith("https://")
            assert model["url"].endswith(f"/{model['name']}")
            assert model["directory"] == named[node["type"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_in_seconds_and_says_how(path):
    """The picture of a fresh ComfyUI has 768 x 768 pixels, far too many for four times without a GPU."""
    workflow = load(path)
    by_id = {node["id"]: node for node in workflow["nodes"]}
    (photo,), (shrink,) = nodes_of(workflow, "LoadImage"), nodes_of(workflow, "ImageScaleToMaxDimension")
    assert photo["widgets_values"][0] == "example.png"
    assert {link[3] for link in workflow["links"] if link[1] == photo["id"]} == {shrink["id"]}
    scales = [1.0]
    for node in by_id.values():
        if node["type"] in {"OSEDiffUpscale", "OSEDiffLQEncode"}:
            scales.append(node["widgets_values"][0])
        elif node["type"] == "ImageScaleBy":
            scales.append(node["widgets_values"][1])
    assert shrink["widgets_values"][1] * max(scales) <= 1024
    (note,) = nodes_of(workflow, "MarkdownNote")
    english, chinese = note["widgets_values"][0].split("\n\n---\n\n")
    for text in (english, chinese):
        assert "**Shrink**" in text
    assert any("\u4e00" <= letter <= "\u9fff" for letter in chinese)
    assert english.isascii()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nodes_do_not_lie_on_each_other(path):
    """With the height of a title above each, and air between them."""
    boxes = [(*node["pos"], *node["size"]) for node in load(path)["nodes"]]
    for n, (x, y, width, height) in enumerate(boxes):
        for left, top, wide, high in boxes[n + 1 :]:
            apart = x + width + 20 <= left or left + wide + 20 <= x
            assert apart or y + height + 60 <= top or top + high + 60 <= y


def test_the_app_view_shows_widgets_that_are_there():
    workflow = load(ROOT / "example_workflows" / "osediff_one_node.json")
    kinds = {node["id"]: node["type"] for node in workflow["nodes"]}
    view = workflow["extra"]["linearData"]
    assert [(kinds[node], widget) for node, widget in view["inputs"]] == [
        ("LoadImage", "image"),
        ("OSEDiffUpscale", "scale"),
        ("OSEDiffUpscale", "prompt"),
        ("OSEDiffUpscale", "color"),
    ]
    assert all(widget in widgets_of(kinds[node]) for node, widget in view["inputs"])
    assert [kinds[node] for node in view["outputs"]] == ["SaveImage"]


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprint_is_whole(path, pack):
    """One node on the outside, called as its file is; inside, nodes that are there, on the demo."""
    workflow = load(path)
    (inside,), (outside,) = workflow["definitions"]["subgraphs"], workflow["nodes"]
    assert outside["type"] == inside["id"]
    assert outside["title"] == inside["name"] == path.stem
    kinds = {str(node["id"]): node["type"] for node in inside["nodes"]}
    for node, widget in outside["properties"]["proxyWidgets"]:
        assert widget in widgets_of(kinds[node])
    by_id = {node["id"]: node for node in inside["nodes"]}
    for node in by_id.values():
        assert len(node["widgets_values"]) == values_of(node["type"])
    demo = sys.modules[f"{pack.__name__}.nodes.paths"].DEMO
    (loader,) = nodes_of(inside, "OSEDiffLoader")
    assert loader["widgets_values"][:2] == [demo, demo]
    for link in inside["links"]:
        if link["origin_id"] in by_id:
            assert by_id[link["origin_id"]]["outputs"][link["origin_slot"]]["type"] == link["type"]
        if link["target_id"] in by_id:
            assert by_id[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
    for kind in ("inputs", "outputs"):
        assert [put["name"] for put in inside[kind]] == [put["name"] for put in outside[kind]] == ["image"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_a_picture(path):
    picture = path.with_suffix(".jpg")
    assert picture.read_bytes()[:3] == b"\xff\xd8\xff"
    assert picture.stat().st_size < 150_000


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_comfy_cli_accepts_a_workflow(path, tmp_path):
    run = validate(path, tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(("position", "value"), [(0, "no such base"), (2, "int3")])
def test_comfy_cli_refuses_a_wrong_value(position, value, tmp_path):
    """The negative control of the test above."""
    workflow = load(ROOT / "example_workflows" / "osediff_one_node.json")
    loader = next(node for node in workflow["nodes"] if node["type"] == "OSEDiffLoader")
    loader["widgets_values"][position] = value
    place = tmp_path / "wrong.json"
    place.write_text(json.dumps(workflow))
    run = validate(place, tmp_path)
    assert run.returncode == 1
    assert value in run.stdout + run.stderr

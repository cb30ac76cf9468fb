"""What the pack shows a real ComfyUI: nodes, lists, help pages, workflows. Opt-in, as test_server.py."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OBJECT_INFO = ROOT / "tests" / "nodes" / "object_info.json"
STOCK = ["LoadImage", "ImageScaleToMaxDimension", "ImageScaleBy", "SaveImage", "PreviewImage", "PreviewAny"]
STOCK += ["CheckpointLoaderSimple", "CLIPTextEncode", "KSampler", "VAEEncode", "VAEDecode"]
NODES = (
    "Loader",
    "DAPELoader",
    "DAPEPrompt",
    "TextEncode",
    "LQEncode",
    "Denoise",
    "Decode",
    "Upscale",
    "Apply",
)
NODES += ("VAEEncodeExact", "VAEDecodeExact")
OURS = [f"OSEDiff{name}" for name in NODES]
WORKFLOWS = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))


def test_the_pack_is_imported_whole(server):
    assert "IMPORT FAILED" not in server.log.read_text()
    info = server.get("/object_info")
    assert set(OURS) == {name for name in info if name.startswith("OSEDiff")}


def test_models_from_extra_model_paths_are_listed(server, comfy_server):
    inputs = server.get("/object_info")["OSEDiffLoader"]["input"]["required"]
    assert inputs["base"][1]["options"] == [comfy_server.DEMO, "tiny_sd"]
    assert {comfy_server.DEMO, "osediff.pkl"} <= set(inputs["weights"][1]["options"])


def test_help_pages_translations_and_workflows_are_served(server):
    for name in OURS:
        page = server.fetch(f"/extensions/osediff/docs/{name}.md").decode()
        assert page == (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
        page = server.fetch(f"/extensions/osediff/docs/{name}/zh.md").decode()
        assert page == (ROOT / "web" / "docs" / name / "zh.md").read_text(encoding="utf-8")
    assert server.get("/i18n")["zh"]["nodeDefs"]["OSEDiffUpscale"]["display_name"]
    assert sorted(server.get("/workflow_templates")["osediff"]) == WORKFLOWS
    for name in WORKFLOWS:
        assert server.fetch(f"/api/workflow_templates/osediff/{name}.jpg")[:3] == b"\xff\xd8\xff"


def _of_all_versions(inputs):
    """What 0.3.64 says of inputs, too."""
    return {
        kind: {name: [_without_advanced(part) for part in put] for name, put in puts.items()}
        for kind, puts in inputs.items()
    }


def _without_advanced(part):
    return {k: v for k, v in part.items() if k != "advanced"} if isinstance(part, dict) else part


def test_the_committed_object_info_is_this_servers(server, comfy_server):
    """OSEDIFF_WRITE_OBJECT_INFO=1 writes the cut that the offline check of the workflows reads."""
    info = server.get("/object_info")
    cut = {name: info[name] for name in sorted(OURS + STOCK)}
    cut["OSEDiffLoader"]["input"]["required"]["base"][1]["options"] = [comfy_server.DEMO]
    weights = cut["OSEDiffLoader"]["input"]["required"]["weights"][1]
    weights["options"] = [o for o in weights["options"] if not o.endswith((".safetensors", ".pkl"))]
    apply = cut["OSEDiffApply"]["input"]["required"]["weights"][1]
    apply["options"] = ["none (merged)", "osediff.pkl"]
    tagger, dape = (cut["OSEDiffDAPELoader"]["input"]["required"][name][1] for name in ("tagger", "dape"))
    tagger["options"], dape["options"] = [comfy_server.TAGGER], dape["options"][:1]
    cut["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] = ["v2-1_512-ema-pruned.safetensors"]
    cut["LoadImage"]["input"]["required"]["image"][0] = ["example.png"]
    if os.environ.get("OSEDIFF_WRITE_OBJECT_INFO"):
        OBJECT_INFO.write_text(json.dumps(cut, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    committed = json.loads(OBJECT_INFO.read_text(encoding="utf-8"))
    for name in OURS:
        assert _of_all_versions(committed[name]["input"]) == _of_all_versions(cut[name]["input"])
        assert committed[name]["output"] == cut[name]["output"]


def test_the_stand_in_of_the_fast_tests_accepts_nothing_that_this_comfyui_refuses(comfy_path, comfy_python):
    """tests/nodes/comfy_stub.py is held against the real comfy_api."""
    code = f"""
import dataclasses, inspect, pathlib, sys
sys.path.insert(0, {str(comfy_path)!r}); sys.argv = ["main.py", "--cpu"]
import comfy.options; comfy.options.enable_args_parsing()
import torch
from comfy_api.latest import io
sys.path.append({str(ROOT / "tests" / "nodes")!r})
import comfy_stub
theirs = {{field.name for field in dataclasses.fields(io.Schema)}}
assert {{field.name for field in dataclasses.fields(comfy_stub.Schema)}} <= theirs
for name, (io_type, stub) in comfy_stub.TYPES.items():
    real = getattr(io, name)
    assert str(real.io_type) == io_type, name
    accepted = set(inspect.signature(real.Input.__init__).parameters)
    mine = getattr(stub, "ARGUMENTS", None) or set(inspect.signature(stub.__init__).parameters)
    assert set(mine) <= accepted, (name, set(mine) - accepted)
from comfy import model_management
from comfy.model_patcher import ModelPatcher
mine = comfy_stub.Comfy(pathlib.Path(".")).modules()["comfy.model_management"]
theirs = set(dir(model_management))
assert {{name for name in vars(mine) if not name.startswith("_")}} <= theirs
assert {{name for name in dir(comfy_stub.ModelPatcher) if not name.startswith("_")}} <= set(dir(ModelPatcher))
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.held, self.device = torch.nn.Linear(3, 5), None
kinds, cpu = (ModelPatcher, comfy_stub.ModelPatcher), torch.device("cpu")
patcher, stub = (kind(Model(), cpu, cpu) for kind in kinds)
assert (patcher.model_size(), patcher.loaded_size()) == (stub.model_size(), stub.loaded_size()) == (80, 0)
model_management.load_models_gpu([patcher], memory_required=0, force_full_load=True)
mine.load_models_gpu([stub], memory_required=0, force_full_load=True)
assert patcher.loaded_size() == stub.loaded_size() == 80
assert (model_management.loaded_models(), mine.loaded_models()) == ([patcher], [stub])
held = patcher.model, stub.model
del patcher, stub
assert model_management.loaded_models() == mine.loaded_models() == [None]
print("compared")
"""
    run = subprocess.run(
        [comfy_python, "-c", code], capture_output=True, text=True, timeout=300, cwd=comfy_path
    )
    assert "compared" in run.stdout, run.stderr

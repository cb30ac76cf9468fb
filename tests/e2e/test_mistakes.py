"""What a person reads in ComfyUI after a mistake. Opt-in, as test_server.py."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest

from osediff_core.base.load import DEMO_WEIGHTS

ROOT = Path(__file__).resolve().parents[2]


def test_mistakes_before_the_run_are_sentences(server, comfy_server, graph):
    nodes = graph("osediff_steps", comfy_server.MICRO)
    bad = copy.deepcopy(nodes)
    bad[comfy_server.find(nodes, "OSEDiffLQEncode")]["inputs"]["scale"] = 0
    with pytest.raises(comfy_server.RejectedError, match="smaller than min"):
        server.queue(bad)


def test_a_file_that_is_gone_is_one_error_on_its_own_node(server, comfy_server, graph):
    """Later versions look before the run, 0.3.64 does not know the lists of such nodes: the loader does."""
    nodes = graph("osediff_steps", comfy_server.MICRO)
    loader = comfy_server.find(nodes, "OSEDiffLoader")
    nodes[loader]["inputs"]["weights"] = "gone.safetensors"
    try:
        run = server.run(nodes)
    except comfy_server.RejectedError as error:
        found = json.loads(str(error))
        broken = found.get("node_errors", found)
        assert list(broken) == [loader]
        assert [each["type"] for each in broken[loader]["errors"]] == ["value_not_in_list"]
        assert "gone.safetensors" in broken[loader]["errors"][0]["details"]
    else:
        assert run.status == "error"
        assert run.error.startswith("OSEDiff: the checkpoint 'gone.safetensors' is not there: choose one of")


def test_an_overlap_that_cannot_be_is_mended_and_said(server, comfy_server, graph):
    nodes = graph("osediff_steps", comfy_server.MICRO)
    nodes[comfy_server.find(nodes, "OSEDiffDenoise")]["inputs"].update(tile="48", overlap=48)
    assert server.run(nodes).status == "success"


def test_mistakes_during_the_run_are_sentences(server, comfy_server, graph):
    nodes = graph("osediff_one_node", comfy_server.MICRO)
    upscale = comfy_server.find(nodes, "OSEDiffUpscale")
    nodes["zero"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 0.0}}
    nodes[upscale]["inputs"]["scale"] = ["zero", 0]
    run = server.run(nodes)
    assert run.status == "error"
    assert run.error.startswith("OSEDiff: ")
    assert "scale" in run.error


class Bomb:
    """A pickle that would create a file when it is loaded."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return (Path.touch, (self.place,))


def test_broken_and_hostile_checkpoints_are_refused(server, comfy_server, graph, tmp_path):
    folder = server.base / "models" / "osediff"
    (folder / "cut.safetensors").write_bytes(DEMO_WEIGHTS.read_bytes()[:1000])
    (folder / "bomb.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    for name in ("cut.safetensors", "bomb.pkl"):
        run = server.run(graph("osediff_one_node", {**comfy_server.MICRO, "weights": name}))
        assert run.status == "error"
        assert run.error.startswith("OSEDiff: ")
        assert name in run.error
    assert not (tmp_path / "exploded").exists()
    run = server.run(graph("osediff_one_node", {"base": comfy_server.DEMO, "weights": "osediff.pkl"}))
    assert run.error.startswith("OSEDiff: ")

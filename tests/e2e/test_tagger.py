"""The tagger's nodes in a real ComfyUI, with a small random tagger. Opt-in, as test_server.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from osediff_core import Tagger
from osediff_core.pictures.images import read_image
from osediff_core.resize import resize_bicubic


@pytest.fixture
def tagger_file(server, comfy_server, tiny_tagger):
    """The tagger where the example workflow looks for it."""
    return shutil.copy(tiny_tagger, server.base / "models" / "osediff_dape" / comfy_server.TAGGER)


@pytest.fixture
def expected(tiny_tagger, photo):
    """The prompt that the core gives for the photograph."""
    tagger = Tagger.from_pretrained(tiny_tagger, device="cpu", dtype="float32")
    enlarged = resize_bicubic(read_image(photo).rgb, (428, 596))
    return ", ".join(tagger.tags(enlarged)[0]) + ", ,"


def test_the_example_workflow_shows_the_tags(server, comfy_server, graph, tagger_file, expected):
    nodes = graph("osediff_dape", comfy_server.MICRO)
    run = server.run(nodes)
    assert run.status == "success", run.error
    shown = run.outputs[comfy_server.find(nodes, "OSEDiffDAPEPrompt")]["text"][0]
    assert shown.split("\n")[0] == expected
    assert server.run(nodes).cached == set(nodes)


def test_the_one_node_takes_a_tagger_and_says_the_prompt(server, comfy_server, graph, tagger_file, expected):
    nodes = graph("osediff_one_node", comfy_server.MICRO)
    chosen = {
        "tagger": comfy_server.TAGGER,
        "dape": "none (in the tagger's file, or plain RAM)",
        "antialias": False,
    }
    nodes["dape"] = {"class_type": "OSEDiffDAPELoader", "inputs": chosen}
    node = comfy_server.find(nodes, "OSEDiffUpscale")
    nodes[node]["inputs"]["dape"] = ["dape", 0]
    nodes["seen"] = {"class_type": "PreviewAny", "inputs": {"source": [node, 1]}}
    run = server.run(nodes)
    assert run.status == "success", run.error
    assert run.outputs["seen"]["text"] == [expected]


def test_the_stock_output_is_a_list_of_short_escaped_prompts(
    server, comfy_server, graph, tagger_file, expected
):
    """Real ComfyUI's vocabulary counts the tokens."""
    nodes = graph("osediff_dape", comfy_server.MICRO)
    node = comfy_server.find(nodes, "OSEDiffDAPEPrompt")
    nodes[node]["inputs"]["threshold_offset"] = -0.6
    nodes["seen"] = {"class_type": "PreviewAny", "inputs": {"source": [node, 1]}}
    run = server.run(nodes)
    assert run.status == "success", run.error
    (text,) = run.outputs["seen"]["text"]
    assert "\\(test\\)" in text
    assert text.count("(") == text.count("\\(")
    assert "cut after 75 tokens" in run.outputs[node]["text"][0]


def test_a_graph_without_a_tagger_file_is_refused_in_a_sentence(server, comfy_server, graph):
    nodes = graph("osediff_dape", comfy_server.MICRO)
    nodes[comfy_server.find(nodes, "OSEDiffDAPELoader")]["inputs"]["tagger"] = "gone.safetensors"
    try:  # later versions refuse it before the run, 0.3.64 leaves it to the loader
        said = server.run(nodes).error
    except comfy_server.RejectedError as error:
        said = str(error)
    assert "gone.safetensors" in said


def test_a_broken_tagger_file_is_one_sentence_on_the_node(server, comfy_server, graph, tagger_file):
    place = server.base / "models" / "osediff_dape" / "half.safetensors"
    place.write_bytes(Path(tagger_file).read_bytes()[:200_000])
    nodes = graph("osediff_dape", comfy_server.MICRO)
    nodes[comfy_server.find(nodes, "OSEDiffDAPELoader")]["inputs"]["tagger"] = place.name
    run = server.run(nodes)
    assert run.status == "error"
    assert "half.safetensors" in run.error
    assert "get the file again" in run.error

"""Graphs in a real ComfyUI server. Opt-in: COMFYUI_PATH names a checkout, COMFYUI_PYTHON its Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {"osediff_one_node": "OSEDiffUpscale", "osediff_steps": "OSEDiffDecode"}
OTHERS = ("osediff_compare", "osediff_enhance", "osediff_large")  # these five need no download


def pixels(path: Path):
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def command_line(photo: Path, out: Path, *options: str):
    """What `python -m osediff_core` makes of the photograph."""
    command = [sys.executable, "-m", "osediff_core", str(photo), str(out), *options]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    return pixels(out)


@pytest.mark.parametrize("name", WORKFLOWS)
@pytest.mark.parametrize(("scale", "color"), [(4.0, "adain"), (2.3, "wavelet")])
def test_an_example_workflow_gives_what_the_command_line_gives(
    server, comfy_server, graph, photo, tmp_path, name, scale, color
):
    nodes = graph(name)
    for node in nodes.values():
        for key, value in {"scale": scale, "color": color}.items():
            if key in node["inputs"]:
                node["inputs"][key] = value
    run = server.run(nodes)
    assert run.status == "success", run.error
    ours = pixels(server.picture(run, comfy_server.find(nodes, "SaveImage"), tmp_path))
    width, height = int(149 * scale + 0.5), int(107 * scale + 0.5)
    assert ours.shape == (height, width, 3)
    assert run.outputs[comfy_server.find(nodes, WORKFLOWS[name])]["text"] == [f"{width} × {height}"]
    theirs = command_line(photo, tmp_path / "cli.png", "--scale", str(scale), "--color", color)
    assert abs(ours - theirs).max() <= 1
    plain = command_line(photo, tmp_path / "plain.png", "--scale", str(scale), "--color", "none")
    assert abs(ours - plain).max() > 1  # the comparison can fail


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_graphs_without_a_download_run_to_their_end(server, graph, name):
    nodes = graph(name)
    run = server.run(nodes)
    assert run.status == "success", run.error
    shown = [node for node in nodes if nodes[node]["class_type"] in ("SaveImage", "PreviewImage")]
    assert shown
    assert all(run.outputs[node]["images"] for node in shown)


def test_a_decoder_of_other_widths_is_listed_and_used(server, comfy_server, graph, photo, tmp_path):
    from benchmarks.random_base import write_decoder

    micro = ROOT / "tests" / "golden_micro"
    file = server.base / "models" / "osediff_decoder" / "lighter.pth"
    file.parent.mkdir(exist_ok=True)
    write_decoder(file, json.loads((micro / "tiny_sd" / "vae" / "config.json").read_text()), (4, 4, 8, 8))
    spec = server.get("/object_info/OSEDiffLoader")["OSEDiffLoader"]["input"]
    assert spec["optional"]["decoder"][1]["options"] == ["the base's own", "lighter.pth"]
    options = ["--base", str(micro / "tiny_sd"), "--weights", str(micro / "osediff.pkl"), "--scale", "4"]
    theirs = command_line(photo, tmp_path / "lighter.png", *options, "--decoder", str(file))
    for name, wanted in {"lighter.pth": True, "the base's own": False}.items():
        nodes = graph("osediff_one_node", {**comfy_server.MICRO, "decoder": name})
        run = server.run(nodes)
        assert run.status == "success", run.error
        ours = pixels(server.picture(run, comfy_server.find(nodes, "SaveImage"), tmp_path))
        assert (abs(ours - theirs).max() <= 1) == wanted


def test_an_unchanged_graph_is_served_from_the_cache(server, comfy_server, graph):
    nodes = graph("osediff_steps", comfy_server.MICRO)
    assert server.run(nodes).status == "success"
    again = server.run(nodes)
    assert again.cached == set(nodes)
    decode = comfy_server.find(nodes, "OSEDiffDecode")
    nodes[decode]["inputs"]["color"] = "wavelet"
    recoloured = server.run(nodes)
    assert set(nodes) - recoloured.cached == {decode, comfy_server.find(nodes, "SaveImage")}


def test_a_replaced_checkpoint_is_loaded_again(server, comfy_server, graph):
    place = server.base / "models" / "osediff" / "mine.pkl"
    shutil.copy(ROOT / "tests" / "golden_micro" / "osediff.pkl", place)
    nodes = graph("osediff_one_node", {**comfy_server.MICRO, "weights": place.name})
    assert server.run(nodes).status == "success"
    os.utime(place, (1, 1))
    again = server.run(nodes)
    assert again.status == "success"
    assert comfy_server.find(nodes, "OSEDiffLoader") not in again.cached


def test_alpha_comes_back(server, comfy_server, graph, photo, tmp_path):
    import numpy as np
    from PIL import Image

    rgba = Image.open(photo).convert("RGBA")
    rgba.putalpha(Image.fromarray((np.indices((107, 149)).sum(0) % 256).astype("uint8")))
    rgba.save(server.base / "input" / "rgba.png")
    nodes = graph("osediff_one_node", comfy_server.MICRO)
    load, node = comfy_server.find(nodes, "LoadImage"), comfy_server.find(nodes, "OSEDiffUpscale")
    nodes[load]["inputs"]["image"] = "rgba.png"
    nodes["join"] = {"class_type": "JoinImageWithAlpha", "inputs": {"image": [load, 0], "alpha": [load, 1]}}
    nodes[node]["inputs"]["image"] = ["join", 0]
    run = server.run(nodes)
    assert run.status == "success", run.error
    out = pixels(server.picture(run, comfy_server.find(nodes, "SaveImage"), tmp_path))
    assert out.shape == (428, 596, 4)
    alpha = np.asarray(rgba.getchannel("A").resize((596, 428), Image.Resampling.BICUBIC)).astype(int)
    assert abs(out[..., 3] - alpha).max() <= 1


def test_stock_nodes_fit_on_the_wires(server, comfy_server, graph, tmp_path):
    """A latent that went through stock nodes keeps its size or loses it; both end well."""
    nodes = graph("osediff_steps", comfy_server.MICRO)
    decode = comfy_server.find(nodes, "OSEDiffDecode")
    denoised = nodes[decode]["inputs"]["latent"]
    nodes["twice"] = {"class_type": "RepeatLatentBatch", "inputs": {"samples": denoised, "amount": 2}}
    nodes[decode]["inputs"]["latent"] = ["twice", 0]
    run = server.run(nodes)
    assert run.status == "success", run.error
    saved = run.outputs[comfy_server.find(nodes, "SaveImage")]["images"]
    assert len(saved) == 2
    assert pixels(server.picture(run, comfy_server.find(nodes, "SaveImage"), tmp_path)).shape == (428, 596, 3)
    nodes["twice"] = {
        "class_type": "LatentUpscale",
        "inputs": {
            "samples": denoised,
            "upscale_method": "bilinear",
            "width": 320,
            "height": 240,
            "crop": "disabled",
        },
    }
    run = server.run(nodes)
    assert run.status == "success", run.error
    assert "padded pixels" in run.outputs[decode]["text"][0]


def cancelled(server, nodes, node, after):
    """Cancel a graph after so many reports of a node: its last event, what the node reported, its end."""
    websocket = pytest.importorskip("websocket")
    address = f"ws://127.0.0.1:{server.port}/ws?clientId={server.client}"
    socket = websocket.create_connection(address, timeout=300, http_no_proxy=["127.0.0.1"])
    try:
        prompt_id = server.queue(nodes)
        seen = []
        while True:
            message = socket.recv()
            event = json.loads(message) if isinstance(message, str) else {"type": "preview"}
            if event["type"] == "progress" and event["data"]["node"] == node:
                seen.append((event["data"]["value"], event["data"]["max"]))
                if len(seen) == after:
                    server.fetch("/interrupt", {})
            if event["type"] in ("execution_interrupted", "execution_success", "execution_error"):
                break
    finally:
        socket.close()
    return event, seen, server.wait(prompt_id).status


@pytest.fixture
def large(server, comfy_server, graph):
    """A function that gives an example workflow on a picture whose every phase takes a while."""
    from PIL import Image

    place = server.base / "input" / "large.png"
    Image.open(server.base / "input" / "photo.png").resize((300, 300)).save(place)

    def make(name):
        nodes = graph(name, comfy_server.MICRO)
        nodes[comfy_server.find(nodes, "LoadImage")]["inputs"]["image"] = place.name
        nodes[comfy_server.find(nodes, "ImageScaleToMaxDimension")]["inputs"]["largest_size"] = 300
        return nodes

    return make


def test_cancel_works_within_one_tile(server, comfy_server, large):
    nodes = large("osediff_one_node")
    node = comfy_server.find(nodes, "OSEDiffUpscale")
    nodes[node]["inputs"]["tile"] = "48"
    event, seen, status = cancelled(server, nodes, node, after=3)
    assert event["type"] == "execution_interrupted"
    assert status == "interrupted"
    values, totals = zip(*seen, strict=True)
    assert set(totals) == {totals[0]}
    assert totals[0] > 60  # 150 x 150 latent pixels in tiles of 48, 16 apart
    # one tile may have been at work, another may have been finished while the request travelled
    assert values[-1] <= values[2] + 3


@pytest.mark.parametrize("phase", ["OSEDiffLQEncode", "OSEDiffDenoise", "OSEDiffDecode"])
def test_cancel_works_in_every_phase(server, comfy_server, large, phase):
    nodes = large("osediff_steps")
    nodes[comfy_server.find(nodes, "OSEDiffDenoise")]["inputs"].update(tile="48", overlap=32)
    nodes[comfy_server.find(nodes, "OSEDiffTextEncode")]["inputs"]["prompt"] = (
        phase  # nothing is kept of others
    )
    node = comfy_server.find(nodes, phase)
    event, seen, status = cancelled(server, nodes, node, after=1)
    assert (event["type"], event["data"]["node_id"], status) == ("execution_interrupted", node, "interrupted")
    done, total = seen[-1]
    assert done < total


def test_thirty_graphs_of_two_clients_all_end(server, comfy_server, graph):
    nodes = graph("osediff_one_node", comfy_server.MICRO)
    nodes[comfy_server.find(nodes, "ImageScaleToMaxDimension")]["inputs"]["largest_size"] = 32
    queued = {}
    for number in range(30):
        nodes[comfy_server.find(nodes, "OSEDiffUpscale")]["inputs"]["prompt"] = f"number {number}"
        client = f"client {number % 2}"
        queued[server.queue(nodes, client)] = client
    save, names = comfy_server.find(nodes, "SaveImage"), set()
    for prompt_id, client in queued.items():
        run = server.wait(prompt_id)
        assert run.status == "success", run.error
        names |= {image["filename"] for image in run.outputs[save]["images"]}
        assert server.get(f"/history/{prompt_id}")[prompt_id]["prompt"][3]["client_id"] == client
    assert len(names) == 30


def test_a_graph_runs_again_after_its_model_was_unloaded(server, comfy_server, graph):
    nodes = graph("osediff_one_node", comfy_server.MICRO)
    node = comfy_server.find(nodes, "OSEDiffUpscale")
    for prompt in ("a cat", "a dog"):
        nodes[node]["inputs"]["prompt"] = prompt
        run = server.run(nodes)
        assert run.status == "success", run.error
        assert node not in run.cached
        server.fetch("/free", {"unload_models": True})
    assert "memory leak" not in server.log.read_text()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_number_format_of_the_list_runs(server, comfy_server, graph, tmp_path, dtype):
    exact = graph("osediff_one_node", comfy_server.MICRO)
    rounded = graph("osediff_one_node", {**comfy_server.MICRO, "dtype": dtype})
    save = comfy_server.find(exact, "SaveImage")
    pictures = [pixels(server.picture(server.run(nodes), save, tmp_path)) for nodes in (exact, rounded)]
    assert 0 < abs(pictures[0] - pictures[1]).mean() < 16

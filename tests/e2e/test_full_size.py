"""Stable Diffusion 2.1-base at full size, with random weights, in a real ComfyUI. Opt-in, as test_server.py.

It is slow, and needs 12 GiB of memory and 6 GB of the disk.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.full_size import in_a_process_of_its_own
from osediff_core import OSEDiff

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PLACES = {"single-fp16": "checkpoints", "folder-fp16": "diffusers"}
PROMPT, SEED = "a cat on grass", 5
LIMIT = 5e-6
"""Of the largest difference, as a part of the largest value: float32, in another order."""


@dataclass(frozen=True)
class Model:
    """A base of some form in ComfyUI's models, its name in the list, and the checkpoint for it."""

    base: Path
    name: str
    weights: Path
    vocabularies: tuple[Path, Path]  # ComfyUI's own, and one that is made up


def pixels(path):
    import numpy as np

    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


@pytest.fixture(scope="module")
def full_size(server, comfy_path, tmp_path_factory):
    """A function that gives the model of some form, in ComfyUI's folders; its files go again at the end."""
    made = {}
    folder = tmp_path_factory.mktemp("full_size")

    def make(form: str) -> Model:
        if form not in made:
            built = Path(in_a_process_of_its_own(str(folder), "--build", form))
            home = server.base / "models" / PLACES[form]
            home.mkdir(exist_ok=True)
            built.rename(home / f"full_{built.name}")
            weights = server.base / "models" / "osediff" / "full_size.pkl"
            (folder / "osediff.pkl").replace(weights)
            vocabularies = comfy_path / "comfy" / "sd1_tokenizer", folder / "vocabulary"
            made[form] = Model(home / f"full_{built.name}", f"full_{built.name}", weights, vocabularies)
        return made[form]

    yield make
    for model in made.values():
        shutil.rmtree(model.base) if model.base.is_dir() else model.base.unlink()
        model.weights.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def small(server):
    """A picture of 64 x 64 in the server's input folder."""
    place = server.base / "input" / "small.png"
    Image.open(ROOT / "docs" / "pictures" / "coffee_lq.png").convert("RGB").crop((20, 10, 84, 74)).save(place)
    return place


def command_line(model, picture, out, vocabulary):
    """What `osediff IN OUT` makes of a picture."""
    command = [sys.executable, "-m", "osediff_core", picture, out, "--base", model.base]
    command += ["--weights", model.weights, "--vocabulary", vocabulary, "--prompt", PROMPT]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, timeout=900)
    return pixels(out)


@pytest.mark.parametrize("form", PLACES)
def test_it_is_listed_and_gives_what_the_command_line_gives(
    server, comfy_server, graph, full_size, small, tmp_path, form
):
    """With ComfyUI's vocabulary, for a base in one file has none; a folder has its own."""
    model = full_size(form)
    inputs = server.get("/object_info")["OSEDiffLoader"]["input"]["required"]
    assert model.name in inputs["base"][1]["options"]
    nodes = graph("osediff_one_node", {"base": model.name, "weights": model.weights.name})
    nodes[comfy_server.find(nodes, "LoadImage")]["inputs"]["image"] = small.name
    nodes[comfy_server.find(nodes, "OSEDiffUpscale")]["inputs"]["prompt"] = PROMPT
    run = server.wait(server.queue(nodes), 900)
    assert run.status == "success", run.error
    ours = pixels(server.picture(run, comfy_server.find(nodes, "SaveImage"), tmp_path))
    assert ours.shape == (256, 256, 3)
    comfys, another = model.vocabularies
    assert abs(ours - command_line(model, small, tmp_path / "cli.png", comfys)).max() <= 1
    if form == "single-fp16":  # the control: the prompt in other tokens
        assert abs(ours - command_line(model, small, tmp_path / "control.png", another)).max() > 1


def stock_graph(base, lora):
    """One step of Euler from noise with stock nodes alone, its result saved."""
    source = ["lora", 0] if lora else ["base", 0]
    text = {"text": PROMPT, "clip": ["base", 1]}
    sampler = {"seed": SEED, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    wires = {"model": source, "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["empty", 0]}
    nodes = {
        "base": ("CheckpointLoaderSimple", {"ckpt_name": base}),
        "text": ("CLIPTextEncode", text),
        "empty": ("EmptyLatentImage", {"width": 128, "height": 64, "batch_size": 1}),
        "sample": ("KSampler", {**sampler, "denoise": 1.0, **wires}),
        "save": ("SaveLatent", {"samples": ["sample", 0], "filename_prefix": "stock"}),
    }
    if lora:
        strengths = {"strength_model": 1.0, "strength_clip": 0.0}
        wired = {"model": ["base", 0], "clip": ["base", 1]}
        nodes["lora"] = ("LoraLoader", {"lora_name": lora, **strengths, **wired})
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


@torch.no_grad()
def our_eps(model, noise):
    """What our own folding predicts of the noise that ComfyUI starts from."""
    options = {"vocabulary": model.vocabularies[0], "dtype": "float32", "device": "cpu"}
    ours = OSEDiff.from_pretrained(model.base, model.weights, **options)
    return ours.predict_noise(noise, ours.encode_prompt([PROMPT])), ours.alphas_cumprod[999]


def test_loraloader_in_a_graph_of_stock_nodes_predicts_the_same_noise(server, full_size):
    """Through the server. Euler's one step ends at x - sigma eps, so that eps can be taken out of it."""
    model = full_size("single-fp16")
    loras = server.base / "models" / "loras"
    loras.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "osediff_core", "convert", model.weights, loras]
    command += ["--to", "comfyui", "--base", model.base]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, timeout=300)
    torch.manual_seed(SEED)
    noise = torch.randn(1, 4, 8, 16)
    eps, a = our_eps(model, noise)
    sigma = ((1 - a) / a).sqrt()
    before, found = len(server.log.read_text()), {}
    for lora in ("full_size_unet_lora.safetensors", None):
        run = server.wait(server.queue(stock_graph(model.name, lora)), 900)
        assert run.status == "success", run.error
        saved = run.outputs["save"]["latents"][0]
        latent = load_file(server.base / "output" / saved["subfolder"] / saved["filename"])["latent_tensor"]
        start = noise * (1 + sigma**2).sqrt()
        found[lora] = (start - latent.float() * 0.18215) / sigma
    assert "lora key not loaded" not in server.log.read_text()[before:]
    errors = {lora: ((eps - other).abs().max() / eps.abs().max()).item() for lora, other in found.items()}
    print("eps through LoraLoader, and without it:", *(f"{error:.1e}" for error in errors.values()))
    assert errors.pop(None) > 0.1  # the control: there was something to do
    assert max(errors.values()) < LIMIT
    shutil.rmtree(loras)

"""ComfyUI's own flags for memory and number formats: the pack runs under each that this machine can have."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
WITH_A_CARD = ("--lowvram", "--novram", "--gpu-only", "--normalvram")
LEVELS = {"float32": 1, "half": 16}  # of 255: the furthest pixel, and for halves the mean


@pytest.fixture(scope="module")
def has_a_card(comfy_python):
    """Whether ComfyUI's Python sees an accelerator."""
    code = "import torch; print(torch.cuda.is_available())"
    return subprocess.run([comfy_python, "-c", code], capture_output=True, text=True).stdout.strip() == "True"


def picture(server, comfy_server, nodes, folder):
    """What a server makes of the graph, as numbers."""
    run = server.run(nodes)
    assert run.status == "success", run.error
    with Image.open(server.picture(run, comfy_server.find(nodes, "SaveImage"), folder)) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize(
    ("flags", "format"),
    [
        (("--cpu", "--force-fp32"), "float32"),
        (("--cpu", "--fp32-unet"), "float32"),
        (("--cpu", "--force-fp16"), "half"),
        (("--cpu", "--fp16-unet"), "half"),
        (("--cpu", "--bf16-unet"), "half"),
        (("--cpu", "--fp8_e4m3fn-unet"), "float32"),  # means nothing to OSEDiff
        (("--cpu", "--cpu-vae"), "float32"),
        *(((flag,), "half") for flag in WITH_A_CARD),
    ],
    ids=lambda value: "".join(value) if isinstance(value, tuple) else value,
)
def test_one_node_runs_under_the_flag(
    server, start, comfy_server, graph, photo, has_a_card, tmp_path, flags, format
):
    if flags[0] in WITH_A_CARD and not has_a_card:
        pytest.skip(f"ComfyUI itself does not start with {flags[0]} where there is no card")
    nodes = graph("osediff_one_node", comfy_server.MICRO)
    expected = picture(server, comfy_server, nodes, tmp_path)
    with start(*flags) as other:
        shutil.copy(photo, other.base / "input")
        ours = picture(other, comfy_server, nodes, tmp_path)
    off = abs(ours - expected)
    assert (off.max() if format == "float32" else off.mean()) <= LEVELS[format]
    assert (format == "half") == bool(off.max() > LEVELS["float32"])  # the flag reached the model

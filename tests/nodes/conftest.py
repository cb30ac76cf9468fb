"""The pack, loaded over the stand-in for ComfyUI, with the model of tests/golden_micro in its folders."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
MICRO = ROOT / "tests" / "golden_micro"


def _stub():
    place = Path(__file__).with_name("comfy_stub.py")
    spec = importlib.util.spec_from_file_location("comfy_stub", place)
    module = sys.modules["comfy_stub"] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def stub():
    """The module comfy_stub.py."""
    return _stub()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A models folder as a user has it: one base, one checkpoint."""
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(MICRO / "tiny_sd", models / "diffusers" / "tiny_sd")
    (models / "osediff").mkdir()
    shutil.copy(MICRO / "osediff.pkl", models / "osediff")
    return models


@pytest.fixture(scope="module")
def loaded(stub, model_folder):
    """The stand-in and the pack over it; the names of ComfyUI's modules lead to the stand-in meanwhile."""
    import huggingface_hub.constants

    state = stub.Comfy(model_folder)
    with pytest.MonkeyPatch.context() as patch:
        # What the person who runs the tests has in the hub's cache is no part of them.
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(model_folder / "hub"))
        for name, module in state.modules().items():
            patch.setitem(sys.modules, name, module)
        yield state, stub.load_pack(ROOT)
    for name in [name for name in sys.modules if name.split(".")[0] == "osediff_pack"]:
        del sys.modules[name]


@pytest.fixture
def comfy(loaded):
    """The state of the stand-in, as new."""
    state, pack = loaded
    state.reset()
    sys.modules[f"{pack.__name__}.nodes.paths"].register_model_folder()
    return state


@pytest.fixture
def pack(comfy, loaded):
    """The repository as ComfyUI imports it."""
    return loaded[1]


@pytest.fixture(scope="module")
def classes(loaded):
    """The node classes by id, as ComfyUI gets them."""

    async def collect():
        return await (await loaded[1].comfy_entrypoint()).get_node_list()

    return {node.define_schema().node_id: node for node in asyncio.run(collect())}


@pytest.fixture
def nodes(comfy, classes):
    """The node classes by id, on a stand-in as new."""
    return classes


@pytest.fixture(scope="module")
def model(classes):
    """The micro model, as OSEDiffLoader gives it."""
    inputs = {"base": "tiny_sd", "weights": "osediff.pkl", "dtype": "float32", "strength": 1.0}
    return classes["OSEDiffLoader"].run(**inputs).args[0]


@pytest.fixture
def photo():
    """A function that makes an IMAGE (B, H, W, C) as LoadImage does: float32, exactly k / 255."""

    def make(height=21, width=34, batch=1, channels=3, seed=0):
        levels = torch.randint(
            0, 256, (batch, height, width, channels), generator=torch.Generator().manual_seed(seed)
        )
        return levels.float() / 255

    return make

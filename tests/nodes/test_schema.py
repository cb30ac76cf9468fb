"""The nodes' outside: ids for ever, a tooltip on everything, help pages, translations; over a stand-in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
OBJECT_INFO = json.loads((ROOT / "tests" / "nodes" / "object_info.json").read_text(encoding="utf-8"))

# Graphs that people saved hold these names, and widget values by position: append, never change.
SIGNATURES = {
    "OSEDiffLoader": ("base weights dtype strength decoder", "OSEDIFF_MODEL"),
    "OSEDiffDAPELoader": ("tagger dape antialias", "OSEDIFF_DAPE"),
    "OSEDiffDAPEPrompt": ("dape image threshold_offset leave_out extra_text", "STRING STRING"),
    "OSEDiffTextEncode": ("model prompt", "CONDITIONING"),
    "OSEDiffLQEncode": ("model image scale size long_side megapixels width height", "LATENT IMAGE INT INT"),
    "OSEDiffDenoise": ("model latent conditioning tile overlap detail", "LATENT"),
    "OSEDiffDecode": ("model latent reference color", "IMAGE"),
    "OSEDiffUpscale": (
        "model image scale prompt color tile detail dape keep size long_side megapixels width height overlap",
        "IMAGE STRING INT INT",
    ),
    "OSEDiffApply": ("model vae weights tile", "MODEL VAE"),
    "OSEDiffVAEEncodeExact": ("pixels vae tile", "LATENT"),
    "OSEDiffVAEDecodeExact": ("samples vae tile", "IMAGE"),
}
FIRST = {  # what a graph of the first version has on its nodes, where more came since
    "OSEDiffLQEncode": "model image scale",
    "OSEDiffDenoise": "model latent conditioning tile overlap",
    "OSEDiffUpscale": "model image scale prompt color tile",
}
VALUES = ("default", "min", "max", "step")


@pytest.fixture
def schemas(nodes):
    return {name: node.define_schema() for name, node in nodes.items()}


def test_ids_inputs_and_outputs_are_for_ever(schemas):
    found = {
        name: (" ".join(put.id for put in schema.inputs), " ".join(put.io_type for put in schema.outputs))
        for name, schema in schemas.items()
    }
    assert found == SIGNATURES


def test_a_graph_of_the_first_version_lacks_nothing(schemas):
    """It has fewer inputs and fewer widget values: what came since is optional and stands behind."""
    for name, schema in schemas.items():
        first = FIRST.get(name, SIGNATURES[name][0]).split()
        assert [put.id for put in schema.inputs[: len(first)]] == first, name
        assert all(put.optional for put in schema.inputs[len(first) :]), name


def test_a_graph_of_the_first_version_gives_what_it_gave(nodes, model, photo):
    """What came since changes nothing where it is not there, and as its widgets stand at first."""
    image = photo()
    wires = {"model": model, "image": image, "latent": None, "scale": 2.0, "prompt": "cat", "color": "adain"}
    wires |= {"tile": "auto", "overlap": 32}
    for name, first in FIRST.items():
        schema = nodes[name].define_schema()
        old = {word: wires[word] for word in first.split() if word != "conditioning"}
        new = {
            put.id: put.arguments["default"]
            for put in schema.inputs
            if "default" in vars(put).get("arguments", {})
        }
        given = [nodes[name].run(**one).args[0] for one in (old, new | old)]
        results = [one["samples"] if isinstance(one, dict) else one for one in given]
        assert torch.equal(*results), name
        if name == "OSEDiffLQEncode":
            wires["latent"] = given[0]


def test_everything_is_explained(schemas):
    for schema in schemas.values():
        schema.validate()
        assert schema.display_name.startswith("OSEDiff ") or "(exact tiles)" in schema.display_name
        assert schema.category.split("/")[0] == "OSEDiff"
        assert len(schema.description) > 20
        for put in [*schema.inputs, *schema.outputs]:
            assert put.tooltip, f"{schema.node_id}.{put.id} has no tooltip"
            assert len(put.tooltip) > 10


def test_the_demo_is_always_listed_first(comfy, nodes, tmp_path):
    comfy.folders["diffusers"] = ([str(tmp_path / "nowhere")], set())
    comfy.folders["osediff"] = ([str(tmp_path / "nowhere")], {".safetensors"})
    base, weights = nodes["OSEDiffLoader"].define_schema().inputs[:2]
    assert base.arguments["options"] == ["demo (comes with the pack)"]
    assert weights.arguments["options"] == ["demo (comes with the pack)", "none (merged into the base)"]


def test_the_committed_object_info_is_of_these_nodes(schemas):
    """The cut that `comfy workflow validate` reads comes from a real server; this keeps it from ageing."""
    for name, schema in schemas.items():
        info = OBJECT_INFO[name]
        for kind, optional in (("required", False), ("optional", True)):
            ours = [put for put in schema.inputs if put.optional == optional]
            assert info["input_order"].get(kind, []) == [put.id for put in ours], name
            for put in ours:
                io_type, said = info["input"][kind][put.id]
                assert (io_type, said["tooltip"]) == (put.io_type, put.tooltip)
                given = getattr(put, "arguments", {})
                of_server, of_node = ({k: of[k] for k in VALUES if k in of} for of in (said, given))
                assert of_server == of_node, f"{name}.{put.id}"
        assert info["output"] == [put.io_type for put in schema.outputs]
        assert info["description"] == schema.description


@pytest.mark.parametrize("place", ["{}.md", "{}/zh.md"])
def test_every_node_has_a_help_page_that_names_its_inputs_and_outputs(schemas, place):
    docs = ROOT / "web" / "docs"
    pages = {page.relative_to(docs).as_posix() for page in docs.glob(place.format("*"))}
    assert pages == {place.format(name) for name in schemas}
    for name, schema in schemas.items():
        text = (docs / place.format(name)).read_text(encoding="utf-8")
        for label in [put.id for put in schema.inputs] + [put.display_name for put in schema.outputs]:
            assert f"`{label}`" in text, f"{place.format(name)} does not mention {label}"
        (shown,) = re.findall(
            r"^!\[.+\]\((.+)\)$", text, re.MULTILINE
        )  # as the page asks for it, from web/docs
        assert (docs / shown).read_bytes()[:3] == b"\xff\xd8\xff", shown
        assert shown.startswith(f"{name}/")


def points(page: str) -> list[str]:
    """The kinds of a page's headings and points, in order."""
    return [line[:2] for line in page.splitlines() if line[:2] in {"# ", "##", "- "}]


def quoted(page: str) -> set[str]:
    """Names, values, files and commands: what is written between backticks or indented."""
    return {*page.replace("\n", " ").split("`")[1::2]} | set(re.findall(r"^ {4}(.+)$", page, re.MULTILINE))


def test_a_translated_help_page_says_as_much(schemas):
    for name in schemas:
        english = (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
        chinese = (ROOT / "web" / "docs" / name / "zh.md").read_text(encoding="utf-8")
        assert points(chinese) == points(english), name
        words_to_translate = {"TAGS, EXTRA TEXT,"}
        assert quoted(english) - quoted(chinese) <= words_to_translate, name


def test_no_script_is_served_by_accident():
    assert not list((ROOT / "web").rglob("*.js"))


@pytest.mark.parametrize(
    "place", sorted((ROOT / "locales").glob("*/nodeDefs.json")), ids=lambda p: p.parent.name
)
def test_translations_are_complete(schemas, place):
    words = json.loads(place.read_text(encoding="utf-8"))
    assert set(words) == set(schemas)
    for name, schema in schemas.items():
        assert words[name]["display_name"]
        assert words[name]["description"]
        assert set(words[name]["inputs"]) == {put.id for put in schema.inputs}
        assert all(entry["name"] and entry["tooltip"] for entry in words[name]["inputs"].values())
        assert set(words[name]["outputs"]) == {str(i) for i in range(len(schema.outputs))}
        assert all(entry["name"] and entry["tooltip"] for entry in words[name]["outputs"].values())


def test_the_repository_can_be_imported_without_comfyui():
    code = (
        "import importlib.util, sys\n"
        "from importlib.util import spec_from_file_location\n"
        "spec = spec_from_file_location('pack', '__init__.py', submodule_search_locations=['.'])\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['pack'] = module\n"
        "spec.loader.exec_module(module)\n"
        "assert not hasattr(module, 'comfy_entrypoint') and module.WEB_DIRECTORY == './web'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_importing_the_pack_imports_no_heavy_library(tmp_path):
    """What takes seconds to import is imported when a model is loaded, or never."""
    code = (
        "import sys, pathlib; sys.path.insert(0, 'tests/nodes'); import comfy_stub\n"
        "state = comfy_stub.Comfy(pathlib.Path(sys.argv[1])); sys.modules.update(state.modules())\n"
        "pack = comfy_stub.load_pack(pathlib.Path('.').resolve())\n"
        "import asyncio; asyncio.run(pack.comfy_entrypoint())\n"
        "print(*sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
    heavy = {
        "diffusers",
        "transformers",
        "accelerate",
        "peft",
        "torchvision",
        "timm",
        "lpips",
        "PIL",
        "safetensors",
    }
    assert not heavy & set(run.stdout.split())
    assert "torch" in run.stdout.split()

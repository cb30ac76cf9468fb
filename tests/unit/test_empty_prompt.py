"""What a base's text encoder makes of the empty prompt, brought by the base: then neither is loaded."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from osediff_core import OSEDiff
from osediff_core.base.load import DEMO_BASE
from osediff_core.base.text import EMBEDDING, EMPTY_PROMPT
from osediff_core.errors import OSEDiffError
from osediff_core.pipeline.run import encode_prompt, restore
from osediff_core.pipeline.runtime import Runtime
from osediff_core.tools.merged import write_merged


@pytest.fixture
def merged(micro, tmp_path):
    out = tmp_path / "merged"
    write_merged(out, micro / "tiny_sd", micro / "osediff.pkl", dtype=torch.float32)
    return out


def load(base):
    return OSEDiff.from_pretrained(base, device="cpu", dtype="float32")


def is_waiting(model):
    return model._modules["text_encoder"] is None


def test_nothing_is_loaded_for_it_and_pictures_are_the_same(merged, model):
    late, lq = load(merged), torch.rand(1, 3, 20, 17, generator=torch.Generator().manual_seed(0))
    assert torch.equal(restore(late, lq), restore(model, lq))
    assert is_waiting(late)
    assert not torch.equal(restore(late, lq, prompt="a cat"), restore(late, lq))
    assert not is_waiting(late)


def test_its_embedding_does_not_depend_on_its_company(merged, model):
    late = load(merged)
    alone = encode_prompt(late, [""], Runtime())
    mixed = encode_prompt(late, ["a cat", "", "a dog"], Runtime())
    assert torch.equal(mixed, encode_prompt(model, ["a cat", "", "a dog"], Runtime()))
    assert torch.equal(mixed[1:2], alone)
    assert torch.equal(encode_prompt(late, ["", ""], Runtime()), alone.repeat(2, 1, 1))


def test_beside_words_the_text_encoder_is_not_asked_for_it(merged):
    late, asked = load(merged), []
    late.text_encoder.register_forward_hook(lambda layer, args, out: asked.append(len(args[0])))
    encode_prompt(late, ["a cat", "", "a dog"], Runtime())
    assert asked == [1, 1]


def test_what_is_given_is_the_callers_own(merged):
    late = load(merged)
    encode_prompt(late, [""], Runtime()).zero_()
    assert encode_prompt(late, [""], Runtime()).abs().max() > 0


def test_the_demos_is_what_its_text_encoder_makes():
    demo = load(None)
    assert is_waiting(demo)
    assert demo.empty_prompt is not None
    torch.testing.assert_close(demo.empty_prompt, demo.encode_prompt([""]), rtol=0, atol=1e-5)
    assert (demo.encode_prompt(["a cat"]) - demo.empty_prompt).abs().max() > 0.01  # the control


def test_the_library_of_the_text_encoder_is_not_imported_for_it():
    program = (
        "import sys, torch; from osediff_core import OSEDiff, restore; "
        "restore(OSEDiff.from_pretrained(device='cpu'), torch.rand(1, 3, 8, 8), prompt=sys.argv[1]); "
        "print('transformers' in sys.modules)"
    )
    said = [
        subprocess.run([sys.executable, "-c", program, prompt], capture_output=True, text=True, check=True)
        for prompt in ("", "a cat")
    ]
    assert [done.stdout.split() for done in said] == [["False"], ["True"]]


def test_a_copy_of_a_waiting_model_loads_its_own(merged):
    late = load(merged)
    twin = copy.deepcopy(late)
    with torch.no_grad():
        twin.text_encoder.get_input_embeddings().weight.zero_()
    assert is_waiting(late)
    assert late.text_encoder.get_input_embeddings().weight.abs().max() > 0


def test_a_damaged_tokenizer_is_named_when_words_need_it(merged):
    for file in (merged / "tokenizer").iterdir():
        file.write_bytes(b"{")
    late = load(merged)
    restore(late, torch.rand(1, 3, 8, 8))
    with pytest.raises(OSEDiffError, match="tokenizer"):
        restore(late, torch.rand(1, 3, 8, 8), prompt="a cat")


def test_of_a_base_with_another_text_encoder_that_one_is_asked(merged):
    path = merged / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    name = max(weights, key=lambda key: weights[key].numel())
    save_file(weights | {name: weights[name] * 1.5}, path, {"format": "pt"})  # of the same size
    swapped = load(merged)
    assert not is_waiting(swapped)
    assert torch.equal(encode_prompt(swapped, [""], Runtime()), swapped.encode_prompt([""]))


@pytest.mark.parametrize("how", ["replaced", "written to", "converted"])
def test_of_a_text_encoder_that_became_another_that_one_is_asked(merged, how):
    late = load(merged)
    before = encode_prompt(late, [""], Runtime())
    late.add_module("text_encoder", (load(merged) if how == "replaced" else late).text_encoder)
    if how == "converted":
        late.text_encoder.double()
    else:
        with torch.no_grad():
            next(late.get_submodule("text_encoder").parameters()).mul_(1.5)
    now = encode_prompt(late, [""], Runtime())
    assert torch.equal(now, late.encode_prompt([""]))
    assert how == "converted" or not torch.equal(now, before)


def test_weights_of_a_text_encoder_reach_one_that_waits(merged, model):
    late, weights = load(merged), model.state_dict()
    name = next(key for key in weights if key.startswith("text_encoder."))
    late.load_state_dict(weights | {name: weights[name] * 1.5})
    assert torch.equal(late.get_parameter(name), weights[name] * 1.5)
    assert late.empty_prompt is None


def test_what_waits_is_found_from_another_folder(merged, monkeypatch):
    monkeypatch.chdir(merged.parent)
    late = load(merged.name)
    monkeypatch.chdir("/")
    assert late.encode_prompt(["a cat"]).isfinite().all()


def test_what_is_loaded_in_inference_mode_can_be_trained(merged):
    late = load(merged)
    with torch.inference_mode():
        encode_prompt(late, ["a cat"], Runtime())
    assert not any(p.is_inference() for p in late.text_encoder.parameters())


def test_a_text_encoder_that_is_no_file_of_weights_is_named_at_once(merged):
    (merged / "text_encoder" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(OSEDiffError, match="text_encoder"):
        load(merged)


@pytest.mark.parametrize("kind", ["another width", "no number", "another name", "cut"])
def test_what_is_none_is_refused_by_name(merged, kind):
    path = merged / EMPTY_PROMPT
    embedding = load_file(path)[EMBEDDING]
    others = {
        "another width": {EMBEDDING: embedding[..., :-1].contiguous()},
        "no number": {EMBEDDING: embedding * torch.nan},
        "another name": {"other": embedding},
    }
    if kind in others:
        save_file(others[kind], path)
    else:
        path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(OSEDiffError, match=EMPTY_PROMPT):
        load(merged)


def test_half_precision_brings_what_float32_makes_of_the_rounded_weights(micro, tmp_path):
    out = tmp_path / "half"
    write_merged(out, micro / "tiny_sd", micro / "osediff.pkl", dtype=torch.float16)
    late = load(out)
    assert torch.equal(late.empty_prompt, late.encode_prompt([""]))
    assert {p.dtype for p in late.text_encoder.parameters()} == {torch.float32}


def test_the_demo_has_it_in_its_folder():
    assert (DEMO_BASE / EMPTY_PROMPT).is_file()

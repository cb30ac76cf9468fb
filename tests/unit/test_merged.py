"""A base with a checkpoint folded in for good: the same model, whole, and never folded twice."""

import json
import re
import shutil

import pytest
import torch

from osediff_core import OSEDiff
from osediff_core.base.marker import MARKER, read_marker
from osediff_core.errors import OSEDiffError
from osediff_core.tools.merged import write_merged


@pytest.fixture(scope="module", autouse=True)
def _measured():
    """What bfloat16 costs is measured in test_bfloat16.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("osediff_core.tools.merged.worst_psnr", lambda model: 47.11)
        yield


@pytest.fixture(scope="module")
def merged(micro, tmp_path_factory):
    """The micro model, merged in float32."""
    out = tmp_path_factory.mktemp("merged") / "model"
    write_merged(out, micro / "tiny_sd", micro / "osediff.pkl", dtype=torch.float32)
    return out


def same(a, b):
    assert a.text_encoder is not b.text_encoder  # which loads it where it waits
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_it_is_the_model_that_it_was_made_from(merged, model):
    again = OSEDiff.from_pretrained(merged, dtype="float32", device="cpu")
    assert same(again, model)
    assert torch.equal(again.alphas_cumprod, model.alphas_cumprod)
    prompts = ["a cat, on a (red) mat", "", "x " * 200, "日本 ünï"]
    assert torch.equal(again.encode_prompt(prompts), model.encode_prompt(prompts))


def test_half_precision_is_rounded_once(tmp_path, micro):
    write_merged(tmp_path / "m", micro / "tiny_sd", micro / "osediff.pkl")
    again = OSEDiff.from_pretrained(tmp_path / "m", dtype="float16", device="cpu")
    folded = OSEDiff.from_pretrained(micro / "tiny_sd", micro / "osediff.pkl", dtype="float16", device="cpu")
    assert same(again, folded)
    assert read_marker(tmp_path / "m")["dtype"] == "float16"
    plain = OSEDiff.from_pretrained(micro / "tiny_sd", dtype="float16", device="cpu")
    assert not same(again, plain)  # the control


def test_the_mark_tells_what_is_in_it(merged, micro):
    about = read_marker(merged)
    assert about == {
        "weights": "osediff.pkl",
        "strength": "1.0",
        "dtype": "float32",
        "bfloat16_psnr": "47.1",
        "rank_unet": "4",
        "alpha_unet": "8.0",
        "rank_vae": "4",
        "alpha_vae": "8.0",
    }
    assert read_marker(micro / "tiny_sd") is None


def test_other_versions_of_transformers_find_the_vocabulary(merged, micro):
    folder = merged / "tokenizer"
    ours, theirs = (json.loads((f / "vocab.json").read_text()) for f in (folder, micro / "tiny_sd/tokenizer"))
    assert ours == theirs
    merges = [(f / "merges.txt").read_text().split("\n") for f in (folder, micro / "tiny_sd/tokenizer")]
    assert [m for m in merges[0] if m] == [m for m in merges[1] if m]


def test_nothing_in_it_tells_where_it_was_made(merged, micro):
    text = "".join(f.read_text() for f in merged.rglob("*.json"))
    assert str(micro) not in text
    assert not re.search("_name_or_path", text)


def test_files_are_readable_as_any_file(merged):
    (merged.parent / "any").touch()
    mode = (merged.parent / "any").stat().st_mode
    assert {f.stat().st_mode for f in merged.rglob("*") if f.is_file()} == {mode}


@pytest.mark.parametrize("options", [{"weights": True}, {"strength": 0.5}])
def test_nothing_is_folded_into_it_again(merged, micro, options):
    if "weights" in options:
        options = {"weights": micro / "osediff.pkl"}
    with pytest.raises(OSEDiffError, match=r"osediff.pkl merged into it, for good and at strength 1.0"):
        OSEDiff.from_pretrained(merged, device="cpu", **options)


def test_a_folder_that_exists_is_left_alone(tmp_path, micro):
    (tmp_path / "m").mkdir()
    with pytest.raises(OSEDiffError, match="there already"):
        write_merged(tmp_path / "m", micro / "tiny_sd", micro / "osediff.pkl")
    assert list((tmp_path / "m").iterdir()) == []


def test_a_failure_leaves_nothing(tmp_path, micro, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("osediff_core.tools.merged.write_marker", full)
    with pytest.raises(OSEDiffError, match=r"could not be written.*No space"):
        write_merged(tmp_path / "m", micro / "tiny_sd", micro / "osediff.pkl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ('{"format": "osediff-merged", "format_version": 1, "about": [1]}', "damaged"),
        ('{"format": "osediff-merged", "format_version": 2, "about": {}}', "osediff-merged 2.*update"),
        ('{"format": "other", "format_version": 1, "about": {}}', "update"),
    ],
)
def test_broken_marks_are_sentences(tmp_path, merged, text, says):
    shutil.copytree(merged, tmp_path / "m")
    (tmp_path / "m" / MARKER).write_text(text)
    with pytest.raises(OSEDiffError, match=says):
        OSEDiff.from_pretrained(tmp_path / "m", device="cpu")

"""The tagger's files, RAM's and DAPE's and ours, whole and broken; and what a tagger answers."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from osediff_core import OSEDiffError, Tagger
from osediff_core.commands.cli import main
from osediff_core.prompts import tag_network
from osediff_core.prompts.ram import expected_shapes, fold_dape, read_config
from osediff_core.prompts.tag_network import build_network
from osediff_core.prompts.tagger_file import read_tagger, write_tagger

RECORDED = Path(__file__).parents[1] / "golden_ram_tiny"
COUNT = 120


def split(tensors):
    """RAM's part of a dictionary, and DAPE's."""
    return (
        {key: tensor for key, tensor in tensors.items() if ".lora_" not in key},
        {key: tensor for key, tensor in tensors.items() if ".lora_" in key},
    )


@pytest.fixture(scope="module")
def recorded():
    return split(load_file(RECORDED / "weights.safetensors"))


@pytest.fixture
def files(recorded, tmp_path):
    """A folder as a user has it: RAM's pickle with training's leftovers, DAPE's, and RAM's two lists."""
    ram, dape = recorded
    ram = {**ram, "text_decoder.cls.predictions.bias": torch.zeros(32)}
    ram["visual_encoder.layers.0.blocks.1.attn_mask"] = torch.zeros(64, 144, 144)
    torch.save({"model": ram, "optimizer": {"state": {0: torch.zeros(3)}}, "epoch": 4}, tmp_path / "ram.pth")
    torch.save(dape, tmp_path / "dape.pth")
    (tmp_path / "ram_tag_list.txt").write_text("\n".join(f"tag {i}" for i in range(COUNT)))
    (tmp_path / "ram_tag_list_threshold.txt").write_text("0.5\n" * COUNT)
    return tmp_path


@pytest.fixture
def picture():
    return torch.randint(
        0, 256, (1, 3, 50, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def rewrite(path, change):
    """Change the dictionary in a file of torch."""
    content = torch.load(path)
    change(content.get("model", content))
    torch.save(content, path)


def failure(files, ram="ram.pth", dape="dape.pth", **lists):
    """The sentence with which a tagger is refused."""
    with pytest.raises(OSEDiffError) as caught:
        read_tagger(files / ram, dape and files / dape, **lists)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_converted_file_gives_the_same_tags(files, picture):
    exact = Tagger.from_pretrained(files / "ram.pth", files / "dape.pth", device="cpu")
    plain = Tagger.from_pretrained(files / "ram.pth", device="cpu")
    out = files / "tagger.safetensors"
    assert main(["convert-dape", *map(str, (files / "ram.pth", files / "dape.pth", out)), "--quiet"]) == 0
    converted = Tagger.from_pretrained(out, device="cpu")
    assert converted.labels == exact.labels == tuple(f"tag {i}" for i in range(COUNT))
    assert torch.equal(converted.thresholds, exact.thresholds)
    error = (converted.logits(picture) - exact.logits(picture)).abs().max()
    assert 0 < error < 0.02  # rounded to float16
    assert (plain.logits(picture) - exact.logits(picture)).abs().max() > 0.1
    assert out.stat().st_size < 0.6 * (files / "ram.pth").stat().st_size


def test_the_converted_file_says_what_it_is(files):
    out = files / "tagger.safetensors"
    write_tagger(out, read_tagger(files / "ram.pth", files / "dape.pth"))
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118
        assert not [key for key in file.keys() if re.search("lora|decoder|mask|tag_encoder", key)]  # noqa: SIM118
    assert metadata["format"] == "osediff-tagger"
    assert metadata["made_from"] == "ram.pth + dape.pth"
    assert len(json.loads(metadata["tags"])) == len(json.loads(metadata["thresholds"])) == COUNT
    assert not list(files.glob("*.part"))


@pytest.mark.slow
def test_every_tensor_has_its_place_in_the_network(recorded):
    """Whichever tensor is changed, as many weights of the network change as it has."""
    ram = recorded[0]

    def weights(tensors):
        return dict(build_network(read_config(tensors), tensors, torch.float32).named_parameters())

    before, kinds = weights(ram), {re.sub(r"\d+", "N", key): key for key in ram}
    assert len(kinds) > 30
    for key in kinds.values():
        after = weights({**ram, key: ram[key] + 1})
        assert sum((after[name] != old).sum().item() for name, old in before.items()) == ram[key].numel()


@pytest.mark.parametrize(
    "names",
    [
        ["self.query", "self.key", "self.value", "self.relative_position_bias_table", "output.dense"],
        ["q_proj", "k_proj", "v_proj", "relative_position_bias.relative_position_bias_table", "o_proj"],
    ],
)
def test_the_names_of_old_and_new_transformers(names):
    table = "relative_position_bias_table"
    ours = [f"swin.encoder.layers.2.blocks.17.attention.{x}" + ".bias" * (table not in x) for x in names]
    theirs = ["qkv.bias", "qkv.bias", "qkv.bias", table, "proj.bias"]
    assert [tag_network._ram_name(name) for name in ours] == [
        f"visual_encoder.layers.2.blocks.17.attn.{name}" for name in theirs
    ]
    assert sorted(ours[2::-1], key=tag_network._place_in_fused) == ours[:3]


def test_a_transformers_of_names_that_nobody_knows(recorded, monkeypatch):
    monkeypatch.delitem(tag_network._SWIN_NAMES, "layernorm")
    with pytest.raises(OSEDiffError, match=r"this version of transformers has swin\.layernorm\.weight"):
        build_network(read_config(recorded[0]), recorded[0], torch.float32)


def test_the_old_name_of_the_head_is_known(recorded):
    ram, dape = recorded
    renamed = {key.replace("tagging_head.", "vision_multi."): tensor for key, tensor in ram.items()}
    assert all(torch.equal(fold_dape(renamed, dape)[key], t) for key, t in fold_dape(ram, dape).items())


def test_folding_a_fused_pair_by_hand(recorded):
    """q and v get their halves, k nothing; loralib's scale is 1 / 8."""
    ram, dape = recorded
    name = "visual_encoder.layers.1.blocks.0.attn.qkv"
    a, b = dape[f"{name}.lora_A"], dape[f"{name}.lora_B"]
    dim = a.shape[1]
    delta = fold_dape(ram, dape)[f"{name}.weight"] - ram[f"{name}.weight"]
    assert torch.allclose(delta[:dim], b[:dim] @ a[:8] / 8, atol=1e-6)
    assert not delta[dim : 2 * dim].any()
    assert torch.allclose(delta[2 * dim :], b[dim:] @ a[8:] / 8, atol=1e-6)
    assert delta[:dim].any()


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("visual_encoder.head.weight", "ram.pth"),
        ("tagging_head.encoder.layer.2.crossattention.self.query.weight", "ram.pth"),
        ("visual_encoder.layers.0.blocks.0.attn.proj.lora_A", "dape.pth"),
        ("tagging_head.encoder.layer.0.crossattention.self.value.lora_A", "dape.pth"),
        ("tag_encoder.encoder.layer.0.crossattention.self.value.lora_B", "dape.pth"),
    ],
)
def test_a_key_that_nobody_knows_is_an_error(files, key, where):
    assert read_tagger(files / "ram.pth", files / "dape.pth")  # before
    rewrite(files / where, lambda tensors: tensors.update({key: torch.zeros(8, 8)}))
    text = failure(files)
    assert key in text or "lacks" in text


def test_what_is_missing_or_of_another_shape_is_named(files):
    rewrite(files / "dape.pth", lambda t: t.pop("visual_encoder.layers.0.blocks.0.attn.qkv.lora_B"))
    assert "visual_encoder.layers.0.blocks.0.attn.qkv has only half" in failure(files)
    rewrite(
        files / "dape.pth", lambda t: t.update({k: v[:, :4] for k, v in t.items() if k.endswith("lora_A")})
    )
    assert "half" in failure(files) or "does not fit" in failure(files)
    rewrite(files / "ram.pth", lambda t: t.pop("visual_encoder.norm.bias"))
    assert "lacks visual_encoder.norm.bias" in failure(files, dape=None)
    rewrite(files / "ram.pth", lambda t: t.update({"visual_encoder.norm.bias": torch.zeros(7)}))
    assert "visual_encoder.norm.bias is (7,), not (128,)" in failure(files, dape=None)


def test_files_given_in_the_wrong_place(files):
    assert "give DAPE.pth there" in failure(files, dape="ram.pth")
    assert "lacks" in failure(files, ram="dape.pth", dape=None)
    write_tagger(files / "ours.safetensors", read_tagger(files / "ram.pth"))
    assert "already" in failure(files, ram="ours.safetensors")
    assert "no tagger file" in failure(files, ram="nowhere.pth")
    save_file({"x": torch.zeros(1)}, files / "other.safetensors")
    assert "lacks" in failure(files, ram="other.safetensors", dape=None)


@pytest.mark.parametrize("name", ["ram.pth", "dape.pth", "ours.safetensors"])
def test_empty_cut_off_and_foreign_files(files, name):
    write_tagger(files / "ours.safetensors", read_tagger(files / "ram.pth", files / "dape.pth"))
    whole = (files / name).read_bytes()
    which = {"dape": name} if name == "dape.pth" else {"ram": name, "dape": None}
    for content in (b"", whole[: len(whole) // 2], whole[:100], b"<html>not found</html>", b"hello " * 1000):
        (files / name).write_bytes(content)
        assert name in failure(files, **which)


def test_code_in_a_pickle_is_named_and_never_executed(files):
    class Run:
        def __reduce__(self):
            return os.mkdir, (str(files / "executed"),)

    for name, which in (("ram.pth", {"dape": None}), ("dape.pth", {})):
        content = torch.load(files / name)
        (content.get("model") or content)["more"] = Run()
        torch.save(content, files / name)
        assert "code" in failure(files, **which)
        assert not (files / "executed").exists()
        torch.load(files / name, weights_only=False)  # the trap works
        (files / "executed").rmdir()
        rewritten = torch.load(files / name, weights_only=False)
        (files / "executed").rmdir()
        (rewritten.get("model") or rewritten).pop("more")
        torch.save(rewritten, files / name)


def test_tags_and_thresholds_must_belong_to_the_weights(files):
    tags, limits = files / "ram_tag_list.txt", files / "ram_tag_list_threshold.txt"
    words = tags.read_text()
    tags.write_text(words.rsplit("\n", 1)[0])
    assert "120 logits, but there are 119 tags and 120 thresholds" in failure(files)
    tags.write_text(words + "\n")  # a newline at the end is no tag
    assert len(read_tagger(files / "ram.pth").tags) == COUNT
    tags.write_text(words.replace("tag 7\n", "\n"))
    assert "empty lines" in failure(files)
    tags.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as text" in failure(files)
    tags.unlink()
    assert "ram_tag_list.txt from ram/data" in failure(files)
    (files / "words.txt").write_text("\r\n".join(f"tag {i}" for i in range(COUNT)))
    assert read_tagger(files / "ram.pth", tags=files / "words.txt").tags[-1] == f"tag {COUNT - 1}"
    for wrong in ("0.5\n" * (COUNT - 1) + "high", "0.5\n" * (COUNT - 1) + "nan", "65\n" * COUNT, ""):
        limits.write_text(wrong)
        assert str(limits) in failure(files, tags=files / "words.txt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop("tags"), "no tags"),
        (lambda m: m.update(tags="[]"), "0 tags"),
        (lambda m: m.update(tags=json.dumps(json.loads(m["tags"])[1:])), "119 tags"),
        (lambda m: m.update(tags="{"), "damaged"),
        (lambda m: m.update(thresholds="7"), "damaged"),
        (lambda m: m.pop("image_size"), "damaged"),
        (lambda m: m.update(format_version="2"), "update the program"),
    ],
)
def test_a_tagger_file_with_broken_metadata(files, change, words):
    place = files / "ours.safetensors"
    write_tagger(place, read_tagger(files / "ram.pth"))
    with safe_open(place, "pt") as file:
        metadata = file.metadata()
    change(metadata)
    save_file(load_file(place), place, metadata)
    assert words in failure(files, ram=place.name, dape=None)


@pytest.mark.parametrize("change", [{"image_size": "224"}, {"label_heads": "5"}, {"label_heads": "0"}])
def test_sizes_that_cannot_be_built(files, change):
    place = files / "ours.safetensors"
    write_tagger(place, read_tagger(files / "ram.pth"))
    with safe_open(place, "pt") as file:
        metadata = {**file.metadata(), **change}
    save_file(load_file(place), place, metadata)
    with pytest.raises(OSEDiffError, match="cannot be built"):
        Tagger.from_pretrained(place, device="cpu")


def test_the_sizes_are_read_off_the_tensors(recorded):
    config = read_config(recorded[0])
    assert (config.embed, config.depths, config.heads) == (16, (2, 2, 4, 2), (1, 2, 4, 8))
    assert (config.window, config.width, config.hidden, config.ffn, config.layers) == (12, 512, 48, 96, 2)
    assert expected_shapes(config) == {key: tuple(tensor.shape) for key, tensor in recorded[0].items()}


@pytest.fixture(scope="module")
def tagger(recorded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagger")
    (folder / "tags.txt").write_text("\n".join(f"tag {i}" for i in range(COUNT)))
    (folder / "limits.txt").write_text("0.5\n" * COUNT)
    torch.save(recorded[0], folder / "ram.pth")  # without training's wrapping, too
    lists = {"tags": folder / "tags.txt", "thresholds": folder / "limits.txt"}
    return Tagger.from_pretrained(folder / "ram.pth", **lists, device="cpu")


def test_offset_and_words_to_leave_out(tagger, picture):
    (tags,) = tagger.tags(picture)
    assert tags == sorted(tags, key=lambda tag: int(tag.split()[1]))  # in the list's order
    assert 2 < len(tags) < COUNT
    assert set(tagger.tags(picture, offset=0.1)[0]) < set(tags) < set(tagger.tags(picture, offset=-0.1)[0])
    assert tagger.tags(picture, offset=1.0) == [[]]
    assert tagger.tags(picture, leave_out=[f" {tags[0].upper()} ", "no tag"]) == [tags[1:]]


def test_a_batch_has_one_prompt_for_each_image(tagger, picture):
    batch = torch.cat([picture, torch.zeros_like(picture)])
    prompts = tagger(batch, "a photo", scale=2)
    assert prompts == [*tagger(batch[:1], "a photo", 2), *tagger(batch[1:], "a photo", 2)]
    assert all(prompt.endswith(", a photo,") for prompt in prompts)
    assert prompts[0] != prompts[1]
    assert tagger(picture, scale=1) == [", ".join(tagger.tags(picture)[0]) + ", ,"]


def test_bytes_and_floats_are_the_same_picture(tagger, picture):
    assert torch.equal(tagger.logits(picture), tagger.logits(picture.float() / 255))


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (384, 384)])
def test_any_size_has_tags(tagger, size):
    assert tagger.logits(torch.full((1, 3, *size), 0.5)).shape == (1, COUNT)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 8, 8),
        torch.zeros(1, 4, 8, 8),
        torch.zeros(0, 3, 8, 8),
        torch.full((1, 3, 4, 4), torch.nan),
    ],
)
def test_what_is_no_image(tagger, image):
    with pytest.raises(OSEDiffError, match="image"):
        tagger.logits(image)


def test_half_precision_gives_nearly_the_same(files, tagger, picture):
    half = Tagger.from_pretrained(files / "ram.pth", dtype="bfloat16", device="cpu")
    error = (half.logits(picture) - tagger.logits(picture)).abs().max()
    assert 0 < error < 0.5


def test_the_command_says_what_it_did(files, capsys):
    out = files / "tagger.safetensors"
    assert main(["convert-dape", str(files / "ram.pth"), str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(out)
    assert "120 tags, of ram.pth" in said.err
    before = out.read_bytes()
    assert main(["convert-dape", str(files / "ram.pth"), str(out)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("out", "words"), [("tagger.pth", ".safetensors"), ("nowhere/tagger.safetensors", "no folder")]
)
def test_the_command_refuses_before_it_reads(files, capsys, out, words):
    assert main(["convert-dape", "nowhere.pth", str(files / out)]) == 1
    assert words in capsys.readouterr().err

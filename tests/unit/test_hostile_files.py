"""Files that are made to fill memory, to take for ever or to run code: each is refused by a sentence."""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile

import pytest
import torch

from osediff_core import limits
from osediff_core.base.folder import load_tokenizer
from osediff_core.base.load import DEMO_BASE, DEMO_WEIGHTS, load_base
from osediff_core.base.marker import read_marker
from osediff_core.base.text import EMPTY_PROMPT
from osediff_core.commands.cli import main
from osediff_core.errors import LONGEST_SENTENCE, OSEDiffError
from osediff_core.prompts.tagger_file import read_tagger
from osediff_core.tools.describe import describe
from osediff_core.weights.checkpoint import read_checkpoint
from osediff_core.weights.tensorfile import TensorFile
from train.engine.state import read_state

ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def safetensors(path, header, data=bytes(4), text=None):
    text = json.dumps(header).encode() if text is None else text
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


# ---- .safetensors -----------------------------------------------------------------------------------


DIGITS = b"9" * 4300
HEADERS = {
    "deep": (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "damaged"),
    "deep in an entry": (b'{"a":{"dtype":"F32","shape":' + b"[" * 10**5 + b"]" * 10**5 + b"}}", "damaged"),
    "long": (b"{" + b" " * limits.HEADER_BYTES + b"}", "header of"),
    "many": (json.dumps(dict.fromkeys(map(str, range(limits.TENSORS + 1)), 0)).encode(), "tensors"),
    "a number of 4300 digits": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[' + DIGITS[:-1] + b"8," + DIGITS + b"]}}",
        "damaged",
    ),
    "a number of 5000 digits": (b'{"a":' + b"9" * 5000 + b"}", "damaged"),
    "floats": (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0.0,4.0]}}', "damaged"),
    "many dimensions": (
        json.dumps({"a": {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}}).encode(),
        "damaged",
    ),
    "a side without end": (
        json.dumps({"a": {"dtype": "F32", "shape": [0, 2**70], "data_offsets": [0, 0]}}).encode(),
        "damaged",
    ),
    "sides without end": (
        json.dumps({"a": {"dtype": "F32", "shape": [0, 2**59, 2**59], "data_offsets": [0, 0]}}).encode(),
        "damaged",
    ),
}


@pytest.mark.parametrize("how", HEADERS)
def test_a_header_without_bounds(tmp_path, how):
    text, words = HEADERS[how]
    path = safetensors(tmp_path / "x.safetensors", None, text=text)
    for read in (TensorFile, describe, read_checkpoint):
        with pytest.raises(OSEDiffError, match=words) as caught:
            read(path)
        assert len(str(caught.value)) < 400 + len(str(path))


def test_one_range_for_many_tensors(tmp_path):
    header = {str(i): ENTRY | {"shape": [10**4], "data_offsets": [0, 40_000]} for i in range(1000)}
    with pytest.raises(OSEDiffError, match=r"would take 40,000,000"):
        TensorFile(safetensors(tmp_path / "x.safetensors", header, bytes(40_000)))


def test_half_of_a_surrogate_pair_as_a_name_is_told(tmp_path, capfd):
    safetensors(tmp_path / "x.safetensors", None, text=b'{"\\ud800":' + json.dumps(ENTRY).encode() + b"}")
    assert main(["inspect", str(tmp_path / "x.safetensors")]) == 0
    assert "\\ud800" in capfd.readouterr().out


SHAPES = {
    "model.diffusion_model.input_blocks.0.0.weight": ([], [1], [1, 1]),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": ([], [1], [1, 1]),
}


@pytest.mark.parametrize("index", range(3))
def test_shapes_of_no_model_are_told(tmp_path, index):
    header = {key: ENTRY | {"shape": shapes[index]} for key, shapes in SHAPES.items()}
    header |= {"first_stage_model.x": ENTRY, "cond_stage_model.x": ENTRY}
    path = safetensors(tmp_path / "x.safetensors", header)
    assert describe(path).kind
    with pytest.raises(OSEDiffError, match=r"2\.1-base"):
        load_base(path)


def lora(conv_in=None, **metadata):
    """A checkpoint of one layer for each part; conv_in: the shape of such a tensor in it."""
    says = {"format": "osediff", "format_version": "1"}
    says |= {f"{what}_{part}": "1" for what in ("rank", "alpha") for part in ("unet", "vae")} | metadata
    keys = [f"{part}.a.lora_{side}.weight" for part in ("unet", "vae") for side in "AB"]
    header = {"__metadata__": says, **{key: ENTRY | {"shape": [1, 1]} for key in keys}}
    return header if conv_in is None else header | {"unet.conv_in.weight": ENTRY | {"shape": conv_in}}


@pytest.mark.parametrize("shape", [[], [1], [1, 1], [1, 1, 1, 1]])
def test_a_conv_in_of_any_shape_is_told(tmp_path, shape):
    path = safetensors(tmp_path / "x.safetensors", lora(shape))
    assert "OSEDiff checkpoint" in describe(path).kind
    describe(path, base=DEMO_BASE)


@pytest.mark.parametrize(
    "says",
    [{"alpha_unet": "1e308"}, {"alpha_vae": "nan"}, {"alpha_vae": "-inf"}, {"rank_unet": "9" * 5000},
     {"rank_vae": "0"}, {"rank_vae": "1.5"}, {"rank_unet": "x" * 10**6}, {"rank_unet": "\x1b[2J"}],
)  # fmt: skip
def test_numbers_that_are_no_rank_and_no_alpha(tmp_path, says):
    with pytest.raises(OSEDiffError, match=r"rank|alpha") as caught:
        read_checkpoint(safetensors(tmp_path / "x.safetensors", lora(**says)))
    assert len(str(caught.value)) < LONGEST_SENTENCE + 100
    assert str(caught.value).isprintable()


HARM = "\x1b]52;c;cm0gLXJmIH4=\x07\x1b[31m\nis  another\r\u202etxt\u2028" + "a" * 10**6


@pytest.mark.parametrize("where", ["base", "steps", "licence", "config", "date"])
def test_what_a_file_says_is_printed_harmless_and_short(tmp_path, capfd, where):
    path = safetensors(tmp_path / "x.safetensors", lora(**{where: HARM}))
    assert main(["inspect", "--config", str(path)]) == 0
    out = capfd.readouterr().out
    assert all(line.isprintable() for line in out.split("\n"))
    assert len(out) < 150_000
    spoofed = [line for line in out.split("\n") if line.startswith("is  another")]
    assert len(spoofed) == (where == "config")  # which has lines of its own, after all that is told


# ---- torch's files ----------------------------------------------------------------------------------


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def number(value):
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def row(*parts):
    return b"(" + b"".join(parts) + b"t"


def tensor(size, stride, begin=0, count=1, key=b"0"):
    """What torch.save writes for a float32 tensor."""
    named = b"ctorch\nFloatStorage\n"
    storage = row(text(b"storage"), named, text(key), text(b"cpu"), number(count)) + b"Q"
    arguments = row(storage, number(begin), row(*map(number, size)), row(*map(number, stride)), b"\x89}")
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def tensor_row(sides):
    """A tensor of as many sides as there are numbers, all of the numbers the same."""
    storage = row(text(b"storage"), b"ctorch\nFloatStorage\n", text(b"0"), text(b"cpu"), number(4)) + b"Q"
    return (
        b"}"
        + text(b"a")
        + b"ctorch._utils\n_rebuild_tensor_v2\n"
        + row(storage, number(0), row(sides), row(sides), b"\x89}")
        + b"Rs"
    )


def table(**items):
    return b"}(" + b"".join(text(key.encode()) + value for key, value in items.items()) + b"u"


def published(of):
    part = b"}(" + b"".join(text(f"x.lora_{s}.first.weight".encode()) + of for s in "AB") + b"u"
    return table(state_dict_unet=part, state_dict_vae=part, rank_unet=number(1), rank_vae=number(1))


def saved(path, content, storage=bytes(16), compress=zipfile.ZIP_STORED, more=()):
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + content + b".")
        archive.writestr("a/data/0", storage)
        for name, value in more:
            archive.writestr(name, value)
    return path


def test_the_smallest_published_checkpoint_is_read(tmp_path):
    """The control of those below."""
    checkpoint = read_checkpoint(saved(tmp_path / "x.pkl", published(tensor([1, 4], [4, 1], count=4))))
    assert checkpoint.unet["x.lora_A.weight"].shape == (1, 4)


TENSORS = {
    "4 TB of one number": tensor([1, 10**12], [0, 0]),
    "12 GB of one number": tensor([1, 3 * 2**30], [0, 0]),
    "more than its storage": tensor([1, 1000], [1000, 1], count=1000),
    "beyond its storage": tensor([1, 1], [1, 1], begin=10**9, count=10**9),
    "before its storage": tensor([1, 1], [1, 1], begin=-100, count=4),
    "backwards": tensor([2, 2], [-1, -1], begin=3, count=4),
    "fewer than none": tensor([-1, 4], [1, 1], count=4),
    "too large for 64 bits": tensor([2**70, 1], [1, 1], count=4),
    "too large together": tensor([2**62, 2**62], [1, 1], count=4),
    "strides too large": tensor([3, 2**31], [2**62, 2**33], count=4),
    "other numbers of sides": tensor([1, 1], [1], count=4),
    "a storage that is not there": tensor([1, 1], [1, 1], key=b"9"),
    "a storage elsewhere": tensor([1, 1], [1, 1], key=b"../../../etc/passwd"),
}


@pytest.mark.parametrize("how", TENSORS)
def test_a_tensor_that_the_file_does_not_hold(tmp_path, how):
    with pytest.raises(OSEDiffError, match=r"damaged"):
        read_checkpoint(saved(tmp_path / "x.pkl", published(TENSORS[how])))


def nested(levels, wide, begin, ref, end):
    """Lists or tables that hold the one before them `wide` times: small, without end for who walks them."""
    out = begin + b"q\x00"
    for level in range(1, levels):
        out += begin + b"q" + bytes([level]) + b"(" + ref(level - 1) * wide + end
    return out


CONTENTS = {
    "a table in itself": (b"}q\x00" + text(b"state_dict") + b"h\x00s", None),
    "tables in tables": (
        (b"}" + text(b"state_dict")) * 50_000 + b"}" + b"s" * 50_000,
        None,
    ),
    "lists of lists": (nested(30, 10, b"]", lambda i: b"h" + bytes([i]), b"e"), None),
    "tables of tables": (nested(30, 10, b"}", lambda i: text(b"k") + b"h" + bytes([i]), b"u"), None),
    "a deep tuple as a key": (b"}" + b")" + b"\x85" * 300_000 + b"K\x01s", "damaged"),
    "a memo far away": (b"]r\xff\xff\xff\xff", None),
    "too many steps": (b"]" * (limits.PICKLE_STEPS + 1), "damaged"),
    "text longer than the file": (b"X\xff\xff\xff\xffabc", "damaged"),
    "a number longer than the file": (b"\x8b\xff\xff\xff\x7f" + b"\x01" * 100, "damaged"),
    "half a number": (b"J\x01", "damaged"),
    "a builder of itself": (
        b"ctorch._tensor\n_rebuild_from_type_v2\nq\x00" + b"(h\x00h\x00)tR", "damaged"
    ),
    "a name as text": (b"\x8c\x02os]\x93", "damaged"),
    "attributes of a builder": (b"ctorch._utils\n_rebuild_tensor_v2\n}" + text(b"x") + b"K\x01sb", None),
    "a million sides": (tensor_row(b"K\x02" * 100_000), "damaged"),
    "a long list said often": (
        b"](" + b"N" * 100_000 + b"eq\x01ccollections\nOrderedDict\nq\x02" + b"h\x02h\x01\x85R" * 50_000,
        "damaged",
    ),
    "a count of many said often": (
        b"}(" + b"".join(number(i) + b"N" for i in range(30_000)) + b"uq\x01ccollections\nCounter\nq\x02"
        + b"h\x02h\x01\x85R0" * 50_000, None,
    ),
    "a long name for many": (
        b"}" + text(b"n" * 10**6) + b"}(" + text(b"t") + tensor([1], [1]) + b"q\x02"
        + b"".join(text(b"k%d" % i) + b"h\x02" for i in range(2000)) + b"us", "damaged",
    ),
    "nothing to pop": (b"0" * 5, "damaged"),
    "an end without a mark": (b"]e", "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("how", CONTENTS)
def test_a_pickle_without_bounds(tmp_path, how):
    content, words = CONTENTS[how]
    path = saved(tmp_path / "x.ckpt", content)
    if words is None:
        assert TensorFile(path).shapes == {}
    else:
        with pytest.raises(OSEDiffError, match=words):
            TensorFile(path)


def test_many_names_for_one_tensor_are_not_all_listed(tmp_path):
    each = b"".join(text(b"k%d" % i) + b"h\x02" for i in range(2000))
    inner = b"}q\x01(" + text(b"t") + tensor([1], [1]) + b"q\x02" + each + b"u"
    outer = b"".join(text(b"n%d" % i) + b"h\x01" for i in range(2000))
    path = saved(tmp_path / "x.ckpt", b"}(" + text(b"m") + inner + outer + b"u")
    with pytest.raises(OSEDiffError, match=r"damaged"):
        TensorFile(path)


def test_zips_that_grow_are_refused(tmp_path):
    content = published(tensor([1, 4], [4, 1], count=4))
    saved(tmp_path / "x.pkl", content, bytes(10**6), zipfile.ZIP_DEFLATED)
    with pytest.raises(OSEDiffError, match=r"compressed"):
        read_checkpoint(tmp_path / "x.pkl")
    saved(tmp_path / "x.pkl", content, more=[(f"a/{i}", b"") for i in range(limits.TENSORS)])
    with pytest.raises(OSEDiffError, match=r"members"):
        read_checkpoint(tmp_path / "x.pkl")
    saved(tmp_path / "x.pkl", text(bytes(limits.PICKLE_BYTES)))
    with pytest.raises(OSEDiffError, match=r"are the most that is read"):
        read_checkpoint(tmp_path / "x.pkl")


def test_a_zip_whose_directory_is_the_whole_file_is_not_read_whole(tmp_path):
    saved(tmp_path / "x.pkl", published(tensor([1, 4], [4, 1], count=4)), bytes(limits.DIRECTORY_BYTES + 100))
    content = bytearray((tmp_path / "x.pkl").read_bytes())
    end = content.rindex(b"PK\x05\x06")
    content[end + 12 : end + 16] = struct.pack("<I", end)  # the length of the directory
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(OSEDiffError, match=r"damaged"):
        read_checkpoint(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "member", ["a/code/__torch__.py", "a/constants.pkl", "a/bytecode.pkl", "a/x.py", "a/code/x.debug_pkl"]
)
def test_an_archive_with_a_program_is_refused_before_anything_of_it_is_read(tmp_path, member, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was asked"))
    content = published(tensor([1, 4], [4, 1], count=4))
    assert read_checkpoint(saved(tmp_path / "x.pkl", content))
    saved(tmp_path / "x.pkl", content, more=[(member, b"")])
    for read in (read_checkpoint, describe, TensorFile, load_base, read_tagger):
        with pytest.raises(OSEDiffError, match=r"TorchScript"):
            read(tmp_path / "x.pkl")


def test_a_file_may_be_called_as_a_program_s_folder_is(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "code.pth")  # torch calls its folder "code", too
    assert TensorFile(tmp_path / "code.pth").shapes == {"weight": (2,)}
    with zipfile.ZipFile(tmp_path / "code.pth", "a") as archive:
        archive.writestr("code/code/__torch__.debug", b"")
    with pytest.raises(OSEDiffError, match=r"TorchScript"):
        TensorFile(tmp_path / "code.pth")


@pytest.mark.parametrize("version", ["2.4.1+cu121", "2.5.0", "1.13.1"])
def test_before_torch_2_6_no_pickle_is_read_and_safetensors_are(tmp_path, micro, monkeypatch, version):
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(OSEDiffError, match=r"does not read with PyTorch .*2\.6 or later"):
        read_checkpoint(micro / "osediff.pkl")
    assert read_checkpoint(DEMO_WEIGHTS)
    torch.save({"version": 0}, tmp_path / "state_0000001.pt")
    with pytest.raises(OSEDiffError, match=r"does not read with PyTorch .*2\.6 or later"):
        read_state(tmp_path / "state_0000001.pt")


@pytest.mark.parametrize("version", ["2.6.0", "2.10.0+cpu", "3.0.0a0"])
def test_from_torch_2_6_on_pickles_are_read(micro, monkeypatch, version):
    monkeypatch.setattr(torch, "__version__", version)
    assert read_checkpoint(micro / "osediff.pkl")


@pytest.mark.parametrize("layout", [True, False])
def test_every_kind_of_tensor_comes_back_as_torch_saved_it(tmp_path, layout):
    wanted = {
        "transposed": torch.randn(3, 4).t(),
        "a part": torch.randn(9)[2:7:2],
        "a parameter": torch.nn.Parameter(torch.randn(2)),
        "float8": torch.randn(4).to(torch.float8_e4m3fn),
        "bfloat16": torch.randn(3).bfloat16(),
        "no numbers": torch.empty(0, 3),
        "one": torch.tensor(3.0),
        "truth": torch.tensor([True, False]),
        "complex": torch.randn(2, dtype=torch.complex64),
        "double": torch.randn(2).double(),
    }
    torch.save(wanted | {"steps": 7}, tmp_path / "x.ckpt", _use_new_zipfile_serialization=layout)
    file = TensorFile(tmp_path / "x.ckpt")
    assert file.metadata == {"steps": "7"}
    assert file.shapes == {key: tuple(tensor.shape) for key, tensor in wanted.items()}
    for key, stored in wanted.items():
        found = file.read(key)
        assert found.dtype == stored.dtype
        assert found.is_contiguous()
        assert torch.equal(found.to(torch.complex128), stored.detach().to(torch.complex128))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_any_protocol_are_no_weights(tmp_path, protocol):
    content = {"a": [1, 2.5, None, True, (3,), "é", b"x", {4}, frozenset((5,))], 6: -(2**40)}
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(OSEDiffError, match=r"no weights file|carries code"):
        TensorFile(tmp_path / "x.ckpt")


def test_a_model_saved_whole_is_named(tmp_path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "x.ckpt")
    with pytest.raises(OSEDiffError, match=r"torch\.nn\.modules\.linear\.Linear"):
        TensorFile(tmp_path / "x.ckpt")


# ---- files that change, and what is no file -----------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("how", ["shrunk", "replaced", "gone"])
def test_a_file_that_changes_while_it_is_read_is_told(tmp_path, suffix, how):
    from safetensors.torch import save_file

    path = tmp_path / f"x{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)({"a": torch.ones(10_000)}, path)
    file = TensorFile(path)
    assert file.read("a").sum() == 10_000
    if how == "shrunk":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "replaced":
        path.write_bytes(path.read_bytes())
        os.utime(path, ns=(1, 1))
    else:
        path.unlink()
    with pytest.raises(OSEDiffError, match=r"changed while it was read|cannot be read"):
        file.read("a")


def test_a_device_or_a_pipe_is_not_opened(tmp_path):
    zero = tmp_path / "x.safetensors"
    zero.symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "x.pkl")
    for path in (zero, tmp_path / "x.pkl"):
        for read in (read_checkpoint, TensorFile, load_base, describe, read_tagger):
            with pytest.raises(OSEDiffError, match=r"pipe, socket or device"):
                read(path)


# ---- configs ----------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path):
    """A base that is read from the beginning, its text too: it does not bring the empty prompt."""
    shutil.copytree(DEMO_BASE, tmp_path / "base")
    (tmp_path / "base" / EMPTY_PROMPT).unlink()
    return tmp_path / "base"


def changed(base, part, **settings):
    file = base / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


SETTINGS = [
    ("unet", "layers_per_block", 10**6),
    ("vae", "layers_per_block", 10**6),
    ("unet", "layers_per_block", True),
    ("unet", "block_out_channels", [10**12] * 3),
    ("unet", "block_out_channels", 5),
    ("unet", "block_out_channels", [32] * 10**5),
    ("vae", "block_out_channels", [[1]]),
    ("unet", "block_out_channels", []),
    ("unet", "block_out_channels", "x" * 10**5),
    ("unet", "cross_attention_dim", "x"),
    ("unet", "cross_attention_dim", 10**15),
    ("unet", "in_channels", [4]),
    ("unet", "in_channels", {}),
    ("unet", "norm_num_groups", 0),
    ("unet", "norm_eps", "nan"),
    ("unet", "norm_eps", float("inf")),
    ("unet", "attention_head_dim", 0),
    ("unet", "attention_head_dim", [1e9]),
    ("unet", "down_block_types", [["x"]]),
    ("unet", "down_block_types", 3),
    ("vae", "latent_channels", -1),
    ("vae", "scaling_factor", float("nan")),
    ("vae", "scaling_factor", 0),
    ("vae", "norm_num_groups", 7),
    ("text_encoder", "num_hidden_layers", 10**9),
    ("text_encoder", "max_position_embeddings", 10**12),
    ("text_encoder", "vocab_size", -1),
    ("text_encoder", "hidden_size", {}),
    ("text_encoder", "hidden_act", 3),
    ("text_encoder", "hidden_act", "\x1b[2J" + "x" * 10**5),
    ("text_encoder", "num_attention_heads", 7),
    ("text_encoder", "layer_norm_eps", "x"),
    ("text_encoder", "intermediate_size", 1.5),
    ("scheduler", "num_train_timesteps", 10**9),
    ("scheduler", "num_train_timesteps", "x"),
    ("scheduler", "num_train_timesteps", -1),
    ("scheduler", "beta_start", "x"),
    ("scheduler", "beta_end", [1]),
    ("scheduler", "beta_start", float("nan")),
    ("scheduler", "beta_end", 10**400),
    ("scheduler", "trained_betas", "x"),
    ("scheduler", "trained_betas", [0.1] * (limits.SCHEDULE_STEPS + 1)),
    ("scheduler", "trained_betas", [[0.1]]),
    ("scheduler", "beta_schedule", {}),
    ("scheduler", "prediction_type", "\x1b]0;x\x07" + "\n" * 10**5),
]  # fmt: skip


@pytest.mark.parametrize(("part", "name", "value"), SETTINGS)
def test_a_setting_that_cannot_be(base, part, name, value):
    changed(base, part, **{name: value})
    with pytest.raises(OSEDiffError) as caught:
        load_base(base)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < LONGEST_SENTENCE + 100
    describe(base)


def test_a_text_encoders_config_names_no_code(base):
    """transformers would import, or fetch, what these name."""
    changed(base, "text_encoder", _attn_implementation="owner/kernels", auto_map={"AutoModel": "x.Y"},
            quantization_config={"quant_method": "x"}, torch_dtype="evil")  # fmt: skip
    load_base(base)


JSON = ["unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json",
        "tokenizer/vocab.json", "tokenizer/tokenizer_config.json"]  # fmt: skip


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("how", ["deep", "long", "a device", "a list", "utf-16"])
def test_a_config_without_bounds(base, name, how):
    file = base / name
    file.unlink(missing_ok=True)
    if how == "a device":
        file.symlink_to("/dev/zero")
    else:
        content = {"deep": b"[" * 10**5, "long": b" " * (limits.TEXT_BYTES + 1), "a list": b"[1]"}
        file.write_bytes(content.get(how, '{"a": 1}'.encode("utf-16")))
    with pytest.raises(OSEDiffError, match=name.split("/")[0]):
        load_base(base)


def test_a_base_written_by_an_editor_with_a_mark_is_read(base):
    marked = [file for pattern in ("*.json", "*.txt") for file in base.rglob(pattern)]
    assert len(marked) > 5
    for file in marked:
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert load_tokenizer(base)("a photo").input_ids == load_tokenizer(DEMO_BASE)("a photo").input_ids
    load_base(base)


def test_a_mark_of_a_merged_base_is_bounded(base):
    (base / "osediff.json").write_text("[" * 10**5)
    with pytest.raises(OSEDiffError, match=r"damaged"):
        read_marker(base)


@pytest.mark.parametrize("part", ["unet", "vae"])
@pytest.mark.parametrize(
    ("how", "words"),
    [("int8", "in int8, expected floating"), ("bool", "in bool"), ("scaled", "scales beside"),
     ("foreign", "save it without 'net.'")],
)  # fmt: skip
def test_weights_that_are_not_the_bases_are_named(base, part, how, words):
    from safetensors.torch import load_file, save_file

    file = next((base / part).glob("*.safetensors"))
    tensors = load_file(file)
    if how == "scaled":
        tensors |= {"conv_in.scale_weight": torch.ones(1)}
    elif how == "foreign":
        tensors = {f"net.{key}": tensor for key, tensor in tensors.items()}
    else:
        tensors = {key: tensor.to(getattr(torch, how)) for key, tensor in tensors.items()}
    save_file(tensors, file)
    with pytest.raises(OSEDiffError, match=words):
        load_base(base)


@pytest.mark.parametrize("word", ["module.", "_orig_mod.", "ema."])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_base_saved_out_of_a_wrapper_is_the_same_base(base, part, word):
    from safetensors.torch import load_file, save_file

    file = next((base / part).glob("*.safetensors"))
    save_file({word + key: tensor for key, tensor in load_file(file).items()}, file)
    bases = [load_base(place) for place in (base, DEMO_BASE)]
    parts = (one.load_text()[0] if part == "text_encoder" else getattr(one, part) for one in bases)
    found, wanted = (network.state_dict() for network in parts)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


# ---- taggers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "says",
    [{"tags": "[" * 10**5}, {"thresholds": "[1" + "0" * 400 + "]"}, {"thresholds": "[NaN]"}, {"tags": "3"},
     {"image_size": str(10**9)}, {"image_size": "9" * 5000}, {"label_heads": "0"}, {"thresholds": "[[]]"}],
)  # fmt: skip
def test_a_tagger_that_says_what_cannot_be(tmp_path, tiny_tagger, says):
    from safetensors.torch import load_file, save_file

    save_file(load_file(tiny_tagger), tmp_path / "x.safetensors", TensorFile(tiny_tagger).metadata | says)
    with pytest.raises(OSEDiffError, match=r"damaged|should hold|tags and"):
        read_tagger(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "name", ["layers.999999999.blocks.0", "layers.0.blocks.888888888", "layers.٣.blocks.0"]
)
def test_a_tagger_whose_layers_are_not_counted_from_0(tmp_path, tiny_tagger, name):
    from safetensors.torch import load_file, save_file

    more = {f"visual_encoder.{name}.attn.qkv.weight": torch.ones(1)}
    save_file(load_file(tiny_tagger) | more, tmp_path / "x.safetensors", TensorFile(tiny_tagger).metadata)
    with pytest.raises(OSEDiffError, match=r"not counted from 0"):
        read_tagger(tmp_path / "x.safetensors")


def test_the_zip_of_these_tests_is_one_that_torch_reads():
    """The control of the files made by hand."""
    content = io.BytesIO()
    saved(
        content,
        published(tensor([1, 4], [4, 1], count=4)),
        more=[("a/version", b"3\n"), ("a/byteorder", b"little")],
    )
    content.seek(0)
    assert torch.load(content, weights_only=True)["rank_unet"] == 1

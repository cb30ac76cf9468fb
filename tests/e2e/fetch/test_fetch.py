"""`osediff fetch` as a program, against a hub on loopback: all of the way, and all that can go wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from osediff_core.tools.published import SOURCES
from osediff_core.whole_files import NOBODY, name_beside

from .hub_server import File
from .running import BIG, PINNED, ROOT, SMALL, errors, finish, parts, size, small_hub, start, whole


@pytest.fixture
def hub():
    with small_hub() as hub:
        yield hub


@pytest.fixture
def program(hub, tmp_path):
    return partial(start, hub, tmp_path)


@pytest.fixture
def osediff(program):
    """Run it; return the status and what was written to stdout and stderr."""
    return lambda *argv, **options: finish(program(*argv, **options))


def test_into_a_folder(osediff, hub, tmp_path):
    status, out, err = osediff("fetch", "model", "list", "--yes", "--to", tmp_path / "models")
    assert status == 0, err
    assert whole(tmp_path / "models" / "model")
    assert (tmp_path / "models" / "list.txt").read_bytes() == b"cat\n"
    assert [Path(line).exists() for line in out.splitlines()] == [True] * 5
    assert "CreativeML Open RAIL++-M" in err
    assert "25.2 MB from one/model into" in err
    assert f"sha256 {PINNED[:12]} is the pinned one" in err
    assert "vae" not in err
    assert "model.safetensors: not pinned; sha256" in err
    assert "config.json: not pinned; git blob" in err
    assert any("/spaces/some/space/resolve/fedcba98" in path for _, path, _, _ in hub.asked)


def test_what_is_there_is_checked_and_not_asked_for(osediff, hub, tmp_path):
    assert osediff("fetch", "model", "--yes", "--to", tmp_path)[0] == 0
    hub.asked.clear()
    status, out, err = osediff("fetch", "model", "--to", tmp_path)  # no --yes: there is nothing to ask
    assert (status, len(out.splitlines()), hub.asked) == (0, 4, [])
    assert err.count("there already") == 4
    assert osediff("fetch", "model", "--to", tmp_path, HF_HUB_OFFLINE="1")[0] == 0
    (tmp_path / "model" / "unet" / "model.safetensors").write_bytes(BIG[:-1] + b"x")
    status, _, err = osediff("fetch", "model", "--to", tmp_path)
    assert status == 1
    assert "model.safetensors is not the known file" in errors(err)[0]


def test_into_comfyui(osediff, tmp_path):
    status, _, err = osediff("fetch", "model", "--yes", "--comfyui", tmp_path)
    assert status == 2
    assert "no ComfyUI" in err
    (tmp_path / "models").mkdir()
    status, _, err = osediff("fetch", "model", "list", "--yes", "--quiet", "--comfyui", tmp_path)
    assert status == 0
    assert err.count("CreativeML Open RAIL++-M") == 2  # a licence is always shown
    assert "pinned" not in err
    assert whole(tmp_path / "models" / "diffusers" / "model")
    assert (tmp_path / "models" / "osediff" / "list.txt").is_file()


def test_into_the_cache_where_the_hubs_library_finds_it(osediff, hub, tmp_path):
    status, out, err = osediff("fetch", "model", "--yes")
    assert status == 0, err
    assert all(
        line.startswith(str(tmp_path / "hf" / "hub" / "models--one--model")) for line in out.splitlines()
    )
    code = (
        "from huggingface_hub import snapshot_download as s, try_to_load_from_cache as t\n"
        "print(s('one/model', local_files_only=True)); print(t('one/model', 'unet/model.safetensors'))"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert whole(Path(found[0]))
    assert found[1] in out.splitlines()
    assert not parts(tmp_path)
    hub.asked.clear()
    status, again, err = osediff("fetch", "model")
    assert (status, sorted(again.splitlines()), hub.asked) == (0, sorted(out.splitlines()), [])


@pytest.mark.slow
def test_a_fetched_base_is_loaded_by_its_id_and_by_its_folder(osediff, hub, tmp_path):
    micro = ROOT / "tests" / "golden_micro"
    for path in (micro / "tiny_sd").rglob("*"):
        if path.is_file():
            name = path.relative_to(micro / "tiny_sd").as_posix()
            hub.files[f"tiny/sd/{name}"] = File(path.read_bytes())
    Image.new("RGB", (8, 8), "teal").save(tmp_path / "a.png")
    options = ["--weights", micro / "osediff.pkl", "--device", "cpu"]
    status, _, err = osediff("a.png", "b.png", "--base", "tiny/sd", *options)
    assert status == 1
    assert "osediff fetch base" in errors(err)[0]
    assert osediff("fetch", "base", "--yes")[0] == 0
    assert osediff("fetch", "base", "--yes", "--to", "x")[0] == 0
    for base, result in (("tiny/sd", "b.png"), ("x/sd", "c.png")):
        status, _, err = osediff("a.png", result, "--base", base, *options, HF_HUB_OFFLINE="1")
        assert status == 0, err
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()


def test_a_token_does_not_leave_the_hub(osediff, hub, tmp_path):
    assert osediff("fetch", "model", "--yes", "--to", tmp_path, HF_TOKEN="hf_secret")[0] == 0
    sent = {("/storage/" in path, token) for _, path, _, token in hub.asked}
    assert sent == {(False, "Bearer hf_secret"), (True, None)}


def test_nothing_is_downloaded_without_a_yes(osediff, hub, tmp_path):
    status, out, err = osediff("fetch", "model", "--to", tmp_path / "x")
    assert (status, out) == (1, "")
    assert "say --yes" in errors(err)[0]
    assert all(method == "HEAD" for method, *_ in hub.asked)
    assert not (tmp_path / "x").exists()


def test_a_slow_hub(osediff, hub, tmp_path):
    hub.files["one/model/vae/model.safetensors"].wait = 1.0  # a pause is no silence
    hub.files["one/model/unet/model.safetensors"].wait = 0.002
    assert osediff("fetch", "model", "--yes", "--to", tmp_path)[0] == 0
    assert whole(tmp_path / "model")


def test_a_connection_that_breaks_is_taken_up_again(osediff, hub, tmp_path):
    hub.files["one/model/unet/model.safetensors"].cut = [15 << 20]
    status, _, err = osediff("fetch", "model", "--yes", "--to", tmp_path)
    assert status == 0, err
    assert whole(tmp_path / "model")
    assert hub.ranges()[:2] == [None, f"bytes={15 << 20}-"]


@pytest.mark.parametrize("to", [["--to", "x"], []], ids=["folder", "cache"])
def test_a_run_that_failed_goes_on_where_it_stopped(osediff, hub, tmp_path, to):
    file = hub.files["one/model/unet/model.safetensors"]
    file.cut, file.refuse = [15 << 20], 503
    status, out, err = osediff("fetch", "model", "--yes", *to)
    assert status == 1
    assert "503" in errors(err)[0]
    assert len(errors(err)) == 1
    assert not any("model.safetensors" in line for line in out.splitlines())
    assert [path.stat().st_size for path in parts(tmp_path)] == [15 << 20]
    file.refuse = None
    hub.asked.clear()
    file.cut = []
    status, _, err = osediff("fetch", "model", "--yes", *to)
    assert status == 0, err
    assert hub.ranges()[0] == f"bytes={15 << 20}-"
    assert not parts(tmp_path)
    if to:
        assert whole(tmp_path / "x" / "model")


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_an_interrupted_run_goes_on_where_it_stopped(program, osediff, hub, tmp_path):
    file = hub.files["one/model/unet/model.safetensors"]
    file.wait = 0.03
    with program("fetch", "model", "--yes", "--to", "x") as process:
        limit = time.monotonic() + 60
        while not any(size(path) > 1 << 20 for path in parts(tmp_path)):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "osediff: interrupted"
    file.wait = 0.0
    hub.asked.clear()
    assert osediff("fetch", "model", "--yes", "--to", "x")[0] == 0
    assert hub.ranges()[0].startswith("bytes=")
    assert whole(tmp_path / "x" / "model")


def left_by_a_killed_run(target, etag):
    return name_beside(target, hashlib.sha256(target.name.encode()).hexdigest()[:8] + etag[:12], NOBODY)


def test_a_part_that_is_not_of_this_file(osediff, hub, tmp_path):
    """Whatever was left there, what appears in the end is the file or nothing."""
    place = tmp_path / "model" / "unet"
    place.mkdir(parents=True)
    part = left_by_a_killed_run(place / "model.safetensors", PINNED)
    part.write_bytes(b"x" * (11 << 20))
    status, _, err = osediff("fetch", "model", "--yes", "--to", tmp_path)
    assert status == 1
    assert "is not the known file" in errors(err)[0]
    assert not parts(tmp_path)
    part.write_bytes(BIG + b"longer than the file")
    assert osediff("fetch", "model", "--yes", "--to", tmp_path)[0] == 0
    assert whole(tmp_path / "model")


def test_a_file_of_another_hash_is_not_even_begun(osediff, hub, tmp_path):
    hub.files["one/model/unet/model.safetensors"] = File(b"y" * 5000)
    status, _, err = osediff("fetch", "model", "--yes", "--to", tmp_path / "x")
    assert status == 1
    assert f"expected {PINNED}" in errors(err)[0]
    assert "two/model" in errors(err)[0]  # and the other mirror was asked
    assert not hub.ranges()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "name", ["unet/model.safetensors", "vae/model.safetensors"], ids=["pinned", "stated"]
)
def test_a_content_that_is_not_what_the_hub_states(osediff, hub, tmp_path, name):
    file = hub.files[f"one/model/{name}"]
    file.sha256 = file.etag
    file.content = file.content[:-1] + b"!"
    status, _, err = osediff("fetch", "model", "--yes", "--to", tmp_path)
    assert status == 1
    assert "sha256" in errors(err)[0]
    assert not (tmp_path / "model" / name).exists()
    assert not parts(tmp_path)


def test_another_mirror_is_asked(osediff, hub, tmp_path):
    for name in [*SMALL, "unet/model.safetensors"]:
        hub.files[f"two/model/{name}"] = File(hub.files[f"one/model/{name}"].content)
    hub.files["one/model/unet/config.json"].status = 401
    status, _, err = osediff("fetch", "model", "--yes", "--to", tmp_path)
    assert status == 0, err
    assert "from two/model into" in err
    assert whole(tmp_path / "model")


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "hf auth login"),
        (403, "HF_TOKEN"),
        (404, "withdrawn"),
        (429, "wait some minutes"),
        (500, "later"),
    ],
)
def test_a_hub_that_refuses(osediff, hub, tmp_path, status, says):
    hub.files["one/model/config.json"].status = status
    result, out, err = osediff("fetch", "model", "--yes", "--to", tmp_path / "x")
    assert (result, out) == (1, "")
    (said,) = errors(err)
    assert says in said
    assert str(status) in said
    assert hub.address in said
    assert not (tmp_path / "x").exists()


def test_a_hub_that_says_nothing(osediff, hub, tmp_path):
    hub.files["one/model/config.json"].silent = True
    status, _, err = osediff("fetch", "model", "--yes", "--to", tmp_path / "x", HF_HUB_ETAG_TIMEOUT="1")
    assert status == 1
    (said,) = errors(err)
    assert "did not answer" in said
    assert hub.address in said


def test_no_hub_at_all(osediff, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        status, _, err = osediff("fetch", "model", "--yes", "--to", tmp_path / "x", HF_ENDPOINT=address)
    assert status == 1
    (said,) = errors(err)
    assert address in said
    assert "connection" in said


def test_offline(osediff, hub, tmp_path):
    status, _, err = osediff("fetch", "model", "--yes", HF_HUB_OFFLINE="1")
    assert status == 1
    (said,) = errors(err)
    assert "HF_HUB_OFFLINE" in said
    assert hub.asked == []


def test_one_that_fails_does_not_keep_back_the_other(osediff, hub, tmp_path):
    hub.files["one/model/config.json"].status = 404
    status, out, err = osediff("fetch", "model", "list", "--yes", "--to", tmp_path)
    assert status == 1
    assert out == f"{tmp_path / 'list.txt'}\n"
    assert len(errors(err)) == 1


def test_the_real_catalogue_refuses_what_is_not_dape(osediff, hub, tmp_path):
    hub.files["CSWRY/SeeSR/DAPE.pth"] = File(b"z" * 5000)
    status, _, err = osediff("fetch", "dape", "--yes", "--to", tmp_path, catalogue=False)
    assert status == 1
    assert "DAPE.pth in CSWRY/SeeSR is not the known file" in errors(err)[0]


def test_what_only_github_has(osediff, hub, tmp_path):
    (tmp_path / "models").mkdir()
    status, _, err = osediff("fetch", "osediff", "--yes", "--comfyui", tmp_path, catalogue=False)
    assert status == 1
    assert "https://github.com/cswry/OSEDiff/raw/main/preset/models/osediff.pkl" in err
    assert str(tmp_path / "models" / "osediff") in err
    assert hub.asked == []
    (tmp_path / "models" / "osediff").mkdir()
    for content, says in [(b"", "empty"), (b"an HTML page", "is not the known file: its git blob is")]:
        (tmp_path / "models" / "osediff" / "osediff.pkl").write_bytes(content)
        status, _, err = osediff("fetch", "osediff", "--comfyui", tmp_path, catalogue=False)
        assert status == 1
        assert says in errors(err)[0]


def test_places_are_those_that_the_nodes_read():
    paths = (ROOT / "nodes" / "paths.py").read_text(encoding="utf-8")
    ours = {source.place for source in SOURCES.values()} - {"diffusers", "checkpoints"}
    assert ours == {"osediff", "osediff_dape"}
    for place in ours:
        assert f'_FOLDER = "{place}"' in paths


def test_no_value_without_a_source():
    for source in SOURCES.values():
        for file in source.files:
            assert bool(file.seen) == any((file.size, file.sha256, file.git_blob)), file.path
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.git_blob is None or re.fullmatch("[0-9a-f]{40}", file.git_blob)


def test_a_wheel_has_the_table():
    """With all else in the core that is no code: setuptools takes what pyproject.toml names."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = json.loads(re.search(r"^osediff_core = (\[.*\])$", text, re.M)[1])
    core = ROOT / "osediff_core"
    packed = {path for pattern in named for path in core.glob(pattern)}
    data = {path for path in core.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert core / "tools" / "published.json" in data
    assert data <= packed


def test_the_list_of_what_is_known(osediff, hub):
    status, out, err = osediff("fetch", catalogue=False)
    assert (status, err, hub.asked) == (0, "", [])
    for word in (
        "base:",
        "osediff:",
        "osediff-face:",
        "ram:",
        "dape:",
        "tags:",
        "Open RAIL++-M",
        "Apache-2.0",
    ):
        assert word in out
    status, _, err = osediff("fetch", "teapot", catalogue=False)
    assert status == 2
    assert "teapot is not known; known are base," in err

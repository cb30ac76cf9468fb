"""A hub, or who stands between, that says what it should not: nothing outside the place, one sentence."""

from __future__ import annotations

import gzip
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ..e2e.fetch.hub_server import File
from ..e2e.fetch.running import BIG, SMALL, errors, finish, parts, small_hub, start

UNPINNED = "one/model/vae/model.safetensors"


@pytest.fixture
def hub():
    with small_hub() as hub:
        yield hub


@pytest.fixture
def fetch(hub, tmp_path):
    """Fetch the model into the cache or a folder, with a precious file beside; return what was said.

    Whatever the hub says, no file may be changed or appear outside of the two places.
    """
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "precious").write_bytes(b"mine")

    def run(*to):
        said = finish(start(hub, work, "fetch", "model", "--yes", *to))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "work"]
        assert {path.name for path in work.iterdir()} <= {"hf", "x"}
        assert (tmp_path / "precious").read_bytes() == b"mine"
        return said

    run.work = work
    yield run
    shutil.rmtree(work)  # pytest keeps what tests leave, and this is large


def refused(said, *words):
    status, _, err = said
    assert status == 1, err
    (sentence,) = errors(err)
    assert all(word in sentence for word in words), sentence
    return sentence


PLACES = pytest.mark.parametrize("to", [[], ["--to", "x"]], ids=["cache", "folder"])
CACHE_OFTEN = pytest.mark.parametrize(
    "to", [[], pytest.param(["--to", "x"], marks=pytest.mark.slow)], ids=["cache", "folder"]
)
OUTSIDE, ABSOLUTE = "../../../../../precious", "/precious"  # the second below the folder of the test


@CACHE_OFTEN
@pytest.mark.parametrize(
    "etag",
    [OUTSIDE, ABSOLUTE, "..", "a" * 63, "A" * 64, "a" * 64 + "/..", "", "\\..\\x", "a" * 40 + "\x7f"],
)
def test_a_hash_that_is_none(hub, fetch, to, etag):
    etag = f"{fetch.work.parent}{ABSOLUTE}" if etag == ABSOLUTE else etag
    hub.files[UNPINNED].said = {"X-Linked-ETag": f'"{etag}"'}
    refused(fetch(*to), "without a hash", "HF_ENDPOINT")
    assert not parts(fetch.work)


@CACHE_OFTEN
@pytest.mark.parametrize("commit", ["../../../../../..", "main", "", "0" * 41, "0" * 39 + "/"])
def test_a_commit_that_is_none(hub, fetch, to, commit):
    hub.files["one/model/config.json"].said = {"X-Repo-Commit": commit}
    refused(fetch(*to), "commit")


def test_no_commit_for_the_cache(hub, fetch):
    """A hub without commits is good for a folder, and the cache has no place for its files."""
    hub.commit = None
    refused(fetch(), "--to")
    assert fetch("--to", "x")[0] == 0


@pytest.mark.parametrize("size", ["-1", "1e3", "", "9" * 16, "٣"])
def test_a_size_that_is_none(hub, fetch, size):
    hub.files[UNPINNED].said = {"X-Linked-Size": size.encode().decode("latin-1")}
    refused(fetch("--to", "x"), "without its size")


def test_a_size_that_no_disk_has(hub, fetch):
    hub.files[UNPINNED].said = {"X-Linked-Size": "9" * 15}
    refused(fetch("--to", "x"), "make room")
    assert not parts(fetch.work)


def test_a_content_longer_than_stated_is_not_written(hub, fetch):
    hub.files[UNPINNED].more = BIG
    refused(fetch("--to", "x"), "sends more", "5000 bytes")
    assert all(path.stat().st_size <= 5000 for path in parts(fetch.work))
    hub.files[UNPINNED].more = b""
    assert fetch("--to", "x")[0] == 0
    assert not parts(fetch.work)


@pytest.mark.parametrize("packing", ["gzip", "GZip", "deflate", "br", "zstd", "gzip, gzip"])
def test_nothing_is_unpacked(hub, fetch, packing):
    content = hub.files[UNPINNED]
    content.sha256, content.said = content.etag, {"X-Linked-Size": "5000"}
    content.content = gzip.compress(bytes(1 << 26))
    content.sent = {"Content-Encoding": packing}
    refused(fetch("--to", "x"), "packed")
    assert sum(path.stat().st_size for path in parts(fetch.work)) == 0


def test_packing_is_not_asked_for(hub, fetch):
    assert fetch("--to", "x")[0] == 0
    assert set(hub.accepted) == {"identity"}


@pytest.fixture
def elsewhere():
    """A server at another address of this machine that counts who comes."""
    came = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            came.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.2", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.2:{server.server_port}/x", came
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("where", ["said", "sent"])
@pytest.mark.parametrize(
    "to",
    ["", "file:///etc/passwd", "ftp://localhost/x", "//[", "http://localhost:x/", "https:///x", "gopher://a"],
)
def test_redirects_to_what_is_no_https(hub, fetch, elsewhere, where, to):
    address, came = elsewhere
    setattr(hub.files[UNPINNED], where, {"Location": to or address})
    # requests, which older huggingface_hub has, stops at an address that it cannot read; httpx hands it on
    refused(fetch("--to", "x"), "http" if to == "//[" else "only https is followed")
    assert came == []


def test_redirects_without_an_end(hub, fetch):
    hub.files[UNPINNED].sent = {"Location": f"/storage/{UNPINNED}"}
    refused(fetch("--to", "x"), "more than 5 times")


def test_another_range_than_was_asked_for(hub, fetch):
    file = hub.files["one/model/unet/model.safetensors"]
    file.cut, file.start = [15 << 20], 1
    refused(fetch("--to", "x"), "another part")
    file.cut, file.start = [], None
    assert fetch("--to", "x")[0] == 0
    assert not parts(fetch.work)


def test_a_hub_that_gives_no_ranges_is_begun_anew(hub, fetch):
    file = hub.files["one/model/unet/model.safetensors"]
    file.cut, file.start = [15 << 20], 0
    assert fetch("--to", "x")[0] == 0
    assert (fetch.work / "x" / "model" / "unet" / "model.safetensors").read_bytes() == BIG


def test_a_content_in_the_cache_that_was_changed_is_not_believed(hub, fetch):
    assert fetch()[0] == 0
    (blob,) = [
        path for path in (fetch.work / "hf").rglob("blobs/*") if path.read_bytes() == SMALL["config.json"]
    ]
    blob.write_bytes(b"[]")
    refused(fetch(), "is damaged", "delete it")


def test_a_named_revision_in_the_cache_is_no_way_out(tmp_path, monkeypatch):
    from osediff_core.base import hub_cache

    (tmp_path / "outside").mkdir()
    place = tmp_path / "hub" / "models--a--b"
    (place / "refs").mkdir(parents=True)
    (place / "snapshots" / "0123").mkdir(parents=True)
    monkeypatch.setattr(hub_cache, "cache_folder", lambda: tmp_path / "hub")
    (place / "refs" / "main").write_text("0123")
    assert hub_cache.snapshot("a/b") == place / "snapshots" / "0123"
    (place / "refs" / "main").write_text("../../../outside")
    assert hub_cache.snapshot("a/b") == place / "snapshots" / "0123"


def test_the_control_of_these_tests(hub, fetch):
    """The same hub, honest, is served by both ways."""
    hub.files["two/model/config.json"] = File(b"{}")
    assert fetch()[0] == 0
    assert fetch("--to", "x")[0] == 0

"""A hub on loopback: repositories in memory, served as huggingface.co serves them, faults included.

Small files come as they are, with git's hash as ETag. Large ones are redirected to another host name, as the
hub does with its storage, with their sha256 in X-Linked-ETag, and can be had in ranges.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000  # bytes from which a file is large
PIECE = 1 << 16


@dataclass
class File:
    """A served file and its faults.

    status: answered to HEAD instead of the file. cut: for each GET of the content in turn, after how many
    bytes the connection breaks (None: never). refuse: the status of all GETs beyond those. wait: seconds per
    piece. sha256: stated instead of the true one. silent: says nothing. said: headers of the description, and
    sent: of the content, in place of the true ones. more: bytes sent after the content. start: where a range
    begins, whatever was asked for.
    """

    content: bytes
    status: int | None = None
    cut: list[int | None] = field(default_factory=list)
    refuse: int | None = None
    wait: float = 0.0
    sha256: str | None = None
    silent: bool = False
    said: dict[str, str] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    more: bytes = b""
    start: int | None = None

    @property
    def etag(self) -> str:
        if len(self.content) < LARGE:
            return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()
        return self.sha256 or hashlib.sha256(self.content).hexdigest()


class Hub:
    """What is served, and what was asked for: (method, path, range, authorization)."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.asked: list[tuple[str, str, str | None, str | None]] = []
        self.address = ""
        self.storage = ""
        self.over = threading.Event()
        self.accepted: list[str | None] = []
        self.commit: str | None = COMMIT

    def ranges(self) -> list[str | None]:
        """The Range header of every GET of a large content, in order."""
        return [wanted for method, path, wanted, _ in self.asked if method == "GET" and "/storage/" in path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        headers = self.headers
        self.hub.accepted.append(headers.get("Accept-Encoding"))
        self.hub.asked.append((self.command, self.path, headers.get("Range"), headers.get("Authorization")))
        if match := re.fullmatch(r"/storage/(.+)", self.path):
            self.storage(self.hub.files[match[1]])
        elif match := re.fullmatch(r"/(?:spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
            self.resolve(f"{match[1]}/{match[3]}")
        elif re.match(r"/api/models/[^/]+/[^/]+", self.path):
            self.reply(200, json.dumps({"sha": COMMIT}).encode(), {"Content-Type": "application/json"})
        else:
            self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})

    def resolve(self, key: str) -> None:
        file = self.hub.files.get(key)
        common = {} if self.hub.commit is None else {"X-Repo-Commit": self.hub.commit}
        if file is None:
            self.reply(404, b"", common | {"X-Error-Code": "EntryNotFound"})
        elif file.silent:
            self.hub.over.wait()
            self.close_connection = True
        elif file.status is not None:
            code = {"X-Error-Code": "RepoNotFound"} if file.status == 401 else {}
            self.reply(file.status, b"", code)
        elif len(file.content) < LARGE:
            self.reply(200, file.content, common | {"ETag": f'"{file.etag}"'} | file.said)
        else:
            linked = {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
            where = {"Location": f"{self.hub.storage}/storage/{key}"}
            self.reply(302, b"", common | linked | where | file.said)

    def storage(self, file: File) -> None:
        start = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
        gets = len(self.hub.ranges())
        cut = file.cut[gets - 1] if gets <= len(file.cut) else None
        if file.refuse is not None and gets > len(file.cut):
            self.reply(file.refuse, b"", {})
            return
        if file.sent.get("Location"):
            self.reply(302, b"", file.sent)
            return
        ranged = start > 0
        if ranged and file.start is not None:
            start, ranged = file.start, file.start > 0
        body = file.content[start:] + file.more
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(len(body)))
        for name, value in file.sent.items():
            self.send_header(name, value)
        if ranged:
            end, size = len(file.content) - 1, len(file.content)
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.end_headers()
        self.pour(body if cut is None else body[:cut], file.wait)
        if cut is not None:
            self.close_connection = True

    def pour(self, body: bytes, wait: float) -> None:
        with suppress(ConnectionError):
            for at in range(0, len(body), PIECE):
                self.wfile.write(body[at : at + PIECE])
                if wait:
                    time.sleep(wait)

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def serving():
    """A running hub."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    hub.storage = f"http://localhost:{server.server_port}"  # another host, to whoever compares names
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        thread.join()
        server.server_close()

"""`osediff` as a program, with the small catalogue and a hub on loopback, in a folder with an empty cache."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from .hub_server import File, serving

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent
BIG = random.Random(0).randbytes(24 << 20)  # many of the pieces of 1 MiB that arrive on the disk
PINNED = hashlib.sha256(BIG).hexdigest()
SMALL = {"config.json": b"{}", "unet/config.json": b'{"a": 1}', "vae/model.safetensors": b"v" * 5000}


@contextmanager
def small_hub():
    """A running hub that has all of the small catalogue."""
    with serving() as hub:
        for name, content in [*SMALL.items(), ("unet/model.safetensors", BIG)]:
            hub.files[f"one/model/{name}"] = File(content)
        hub.files["some/space/data/list.txt"] = File(b"cat\n")
        yield hub


def start(hub, folder, *argv, catalogue=True, before=None, **environment):
    """Start the program in a folder; before: called in the new process first."""
    runner = [str(HERE / "small_catalogue.py"), PINNED] if catalogue else ["-m", "osediff_core"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    ours = {
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_ETAG_TIMEOUT": "10",
        "HF_HUB_DOWNLOAD_TIMEOUT": "10",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return subprocess.Popen(
        [sys.executable, *runner, *map(str, argv)],
        cwd=folder,
        env=kept | ours | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def finish(process):
    """Return the status and what was written to stdout and stderr."""
    with process:
        out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return process.returncode, out, err


def errors(err):
    return [line for line in err.splitlines() if line.startswith("osediff: error: ")]


def whole(folder):
    """Whether the model is there, byte for byte, and nothing else (no part, no lock)."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert set(files) == {*SMALL, "unet/model.safetensors"}
    return (files["unet/model.safetensors"].read_bytes() == BIG) and all(
        files[name].read_bytes() == content for name, content in SMALL.items()
    )


def size(path):
    """Bytes, 0 where the file has just been renamed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def parts(folder):
    return list(folder.rglob("*.part"))

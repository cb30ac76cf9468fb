"""Set up and run: `python dev.py demo`, `python dev.py test`. The same on Linux, macOS and Windows.

The first call makes a virtual environment in .venv and installs the project into it; later calls reuse
it. OSEDIFF_TORCH names another torch requirement than the newest ("torch==2.13.0", or a wheel).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
EXTRAS = {"demo": "", "test": "[train,eval,dev]"}
TORCH_SIZES = (
    "about 0.2 GB on macOS, Windows and Linux with ARM; on Linux with x86 a build for CUDA of 3 GB. For a "
    "processor alone or ROCm install what pytorch.org/get-started/locally shows into .venv first, or name a "
    "wheel in OSEDIFF_TORCH"
)
TEST_TIME = (
    "the fast tests: 4 to 10 minutes on two processor cores; the summary says what is skipped, and why"
)
DEMO_IN, DEMO_OUT = "docs/pictures/coffee_lq.png", "out/coffee_sr.png"


def run(*command: str) -> None:
    """Run a program of the virtual environment from the project's root; leave with its status if it fails."""
    status = subprocess.run([str(PYTHON), *command], cwd=ROOT).returncode
    if status:
        sys.exit(status)


def can_import(module: str) -> bool:
    """Whether the virtual environment has a module already."""
    quiet = subprocess.DEVNULL
    return subprocess.run([str(PYTHON), "-c", f"import {module}"], stdout=quiet, stderr=quiet).returncode == 0


def said(program: str) -> str:
    """Return what a line of Python prints in the virtual environment."""
    return subprocess.run([str(PYTHON), "-c", program], capture_output=True, text=True, check=True).stdout


def set_up(extras: str) -> None:
    """Make the virtual environment if there is none, and install what is missing."""
    if not PYTHON.exists():
        print(f"making a virtual environment in {VENV.name}", file=sys.stderr)
        venv.create(VENV, with_pip=True)
    if not can_import("torch"):
        torch = os.environ.get("OSEDIFF_TORCH", "torch>=2.6")
        print(f"installing {torch}: {TORCH_SIZES}", file=sys.stderr)
        run("-m", "pip", "install", *torch.split())
    ready = VENV / f"ready{extras}"
    if not ready.exists() or ready.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        print(f"installing the project{f' with {extras}' if extras else ''}: up to 0.5 GB", file=sys.stderr)
        kept = VENV / "torch.txt"  # so that nothing swaps the torch that is there for another
        kept.write_text(said("import torch; print(f'torch=={torch.__version__}')"))
        run("-m", "pip", "install", "--constraint", str(kept), "--editable", f".{extras}")
        ready.touch()


def main() -> None:
    """Set up, then restore the example photograph or run the fast tests."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=EXTRAS, help="demo: restore a photograph; test: run the fast tests")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="passed on to the task")
    args = parser.parse_args()
    set_up(EXTRAS[args.task])
    if args.task == "demo":
        run("-m", "osediff_core", DEMO_IN, DEMO_OUT, "--overwrite", *args.rest)
        print(f"restored: {DEMO_OUT} (from {DEMO_IN})")
    else:
        print(TEST_TIME, file=sys.stderr)
        run("-m", "pytest", "--numprocesses", "2", "--dist", "worksteal", *args.rest)


if __name__ == "__main__":
    main()

"""The micro model whose outputs are recorded: small enough to load wherever a test needs a whole one."""

import json
import os
import platform
import signal
from collections import Counter
from pathlib import Path

import pytest

try:  # the Python of a ComfyUI, which runs some of the tests, may lack it
    from hypothesis import settings
except ModuleNotFoundError:
    pass
else:  # The same inputs in every run: what fails once fails again. New ones: --hypothesis-profile=default.
    settings.register_profile("same inputs", derandomize=True, deadline=None)
    settings.load_profile("same inputs")

# Models this small gain nothing from threads, and on a busy machine lose minutes waiting for each other.
# Set before torch is imported, so that the tests' own subprocesses have it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The larger recorded set comes from sums of eight numbers at a time, and its model enlarges their rounding:
# sums of sixteen are more than a gate away (docs/parity.md). Before torch, too.
if os.environ.get("OSEDIFF_GOLDEN") and platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")

# What a shell starts in the background ignores interrupts, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter):
    """Say how many tests were skipped for each reason."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"skipped {count}: {reason}")


PARTS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="session")
def micro():
    """The folder of the micro model: tiny_sd/ and osediff.pkl."""
    return Path(__file__).parent / "golden_micro"


@pytest.fixture(scope="session")
def model(micro):
    """The micro model, float32 on the CPU. Copy it before changing it."""
    from osediff_core import OSEDiff

    return OSEDiff.from_pretrained(micro / "tiny_sd", micro / "osediff.pkl", dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def machine():
    """The surroundings of a restoration on a machine with so many bytes free; None: nobody says."""
    import torch

    from osediff_core.pipeline.runtime import Runtime

    class Machine(Runtime):
        def __init__(self, host=None, card=None, progress=None):
            super().__init__(progress)
            self.host, self.card = host, card

        def free_memory(self, device):
            return self.host if device == torch.device("cpu") else self.card

    return Machine


@pytest.fixture
def figures(monkeypatch):
    """Plan as if a half of the VAE took 10 GiB whole, and in pieces of 256 kept 4 and worked in 1.

    Smaller pieces work in less, by their area.
    """
    from osediff_core.pipeline import plan

    def needs(vae, height, width, piece, keep, device):
        if piece is None:
            return 10 * 2**30, 0
        working, kept = 2**30 * piece**2 // 256**2, 4 * 2**30
        return (working + kept, 0) if keep is None else (working, kept)

    for half in ("encode_bytes", "decode_bytes"):
        monkeypatch.setattr(plan, half, needs)


@pytest.fixture(scope="session")
def micro_architecture(micro):
    """The configs of the micro base, which say how a single file of it is read."""
    from osediff_core.base.single_file import Architecture

    configs = [json.loads((micro / "tiny_sd" / part / "config.json").read_text()) for part in PARTS]
    scheduler = json.loads((micro / "tiny_sd" / "scheduler" / "scheduler_config.json").read_text())
    return Architecture(*configs, scheduler)


@pytest.fixture(scope="session")
def micro_in_one_file(micro, micro_architecture):
    """The tensors of the micro base under the names of the original training code."""
    from safetensors.torch import load_file

    from benchmarks.random_base import single_file

    parts = {part: load_file(next((micro / "tiny_sd" / part).glob("*.safetensors"))) for part in PARTS}
    return dict(single_file(parts, micro_architecture.unet["layers_per_block"], 4))


@pytest.fixture(scope="session")
def tiny_tagger(tmp_path_factory):
    """A tagger file as `osediff convert-dape` writes it: the small recorded one, its 120 tags numbered."""
    import torch
    from safetensors.torch import load_file

    from osediff_core.prompts.ram import fold_dape, read_config
    from osediff_core.prompts.tagger_file import TaggerWeights, write_tagger

    recorded = Path(__file__).parent / "golden_ram_tiny"
    folded = fold_dape(load_file(recorded / "weights.safetensors"))
    count = len(folded["label_embed"])
    place = tmp_path_factory.mktemp("tagger") / "osediff_dape.safetensors"
    labels = tuple(f"tag {i} (test)" for i in range(count))
    write_tagger(place, TaggerWeights(folded, read_config(folded), labels, torch.full((count,), 0.42)))
    return place

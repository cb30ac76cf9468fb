"""What the published implementation put out, what ours does with the same input, and a table of both."""

import ast
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import avg_pool2d

from osediff_core import OSEDiff

from .gaussian import blend

TESTS = Path(__file__).parents[1]
FOLDERS = {"micro": TESTS / "golden_micro", "large": Path(os.environ.get("OSEDIFF_GOLDEN", ""))}
SINGLE = ("a_single_64x96_mode", "a_single_64x96_sample")
CASES = {
    "micro": (*SINGLE, "a_single_72x104_sample", "b_batch2_96x80", "c_tile_136x200_t12_o4"),
    "large": (
        *(*SINGLE, "a_single_128x128_sample", "b_batch2_96x80", "c_notile_200x264_plain"),
        *("c_tile_small_224x320_t16_o4", "c_tile_min_lat72x136", "c_tile_96_32_lat112x160_novaetile"),
    ),
}
without_large = pytest.mark.skipif(
    not os.environ.get("OSEDIFF_GOLDEN"), reason="OSEDIFF_GOLDEN names no folder with the larger recorded set"
)
ROWS = pytest.StashKey[list]()


def both_sets(cases):
    """Parameters (set, case): the micro set always, the larger one where it is there."""
    marks = {"micro": (), "large": (without_large,)}
    return [pytest.param((s, c), id=f"{s}-{c}", marks=marks[s]) for s, names in cases.items() for c in names]


@dataclass(frozen=True)
class Case:
    """One recorded run: its tensors, and the settings that it ran with."""

    name: str
    tensors: dict[str, torch.Tensor]
    prompts: list[str]
    tile: int
    overlap: int

    def __getitem__(self, key):
        return self.tensors[key]

    @property
    def lq(self):
        """The input, (B, 3, H, W) in [0, 1]."""
        if "lq_u8" in self.tensors:
            return self["lq_u8"].float() / 255
        quarter = self["lq_u8_quarter"].float() / 255
        return quarter.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)

    @property
    def noise(self):
        """What the published code drew for the posterior; None where it was made to take the mode."""
        return None if "mode" in self.name else self["posterior_noise"]

    @property
    def latent_gate(self):
        """The latents of large images are held to 3e-5, all others to 1e-5."""
        return 3e-5 if self.lq.shape[-1] > 1000 else 1e-5

    def seen(self, image):
        """What is recorded of an output image: all of it, or for large ones 8x8 means and three crops."""
        if "output" in self.tensors:
            return image
        crops = [key for key in sorted(self.tensors) if key.startswith("output_crop")]
        places = [[int(part[1:]) for part in key.split("_")[2:]] for key in crops]
        pieces = [avg_pool2d(image, 8), *(image[..., y : y + 96, x : x + 96] for y, x in places)]
        return torch.cat([piece.flatten() for piece in pieces])

    @property
    def output(self):
        """What `seen` should see."""
        if "output" in self.tensors:
            return self["output"]
        keys = [key for key in sorted(self.tensors) if key.startswith("output_crop")]
        return torch.cat([self[key].flatten() for key in ("output_pool8", *keys)])


@dataclass(frozen=True)
class Replay:
    """What our model computes for a case, each step from the step before."""

    embeds: torch.Tensor
    latent: torch.Tensor
    eps: torch.Tensor
    tiles: list[torch.Tensor]
    x0: torch.Tensor
    image: torch.Tensor


def read_case(folder, name):
    file = folder / f"{name}.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    prompt = metadata["prompt"]
    args = ast.literal_eval(metadata.get("args", "{}"))
    return Case(
        name,
        load_file(file),
        ast.literal_eval(prompt) if prompt.startswith("[") else [prompt],
        args.get("latent_tiled_size", 96),
        args.get("latent_tiled_overlap", 32),
    )


@torch.no_grad()
def replay(model, case):
    tiles = []

    def noise(patch):
        tiles.append(model.predict_noise(patch, embeds))
        return tiles[-1]

    embeds = model.encode_prompt(case.prompts)
    latent = model.encode(case.lq, case.noise)
    eps = blend(noise, latent, case.tile, case.overlap)
    x0 = model.predict_x0(latent, eps)
    return Replay(embeds, latent, eps, tiles, x0, model.decode(x0) * 2 - 1)


@pytest.fixture(scope="session")
def models():
    """Return a loader of the random models, by set and LoRA strength; the published .pkl is what it reads."""
    loaded = {}

    def load(name, strength=1.0):
        if (name, strength) not in loaded:
            base, weights = FOLDERS[name] / "tiny_sd", FOLDERS[name] / "osediff.pkl"
            loaded[name, strength] = OSEDiff.from_pretrained(
                base, weights, strength=strength, dtype="float32", device="cpu"
            )
        return loaded[name, strength]

    return load


@pytest.fixture(scope="session", params=["micro", pytest.param("large", marks=without_large)])
def recorded_set(request):
    """The name and folder of one set after the other."""
    return request.param, FOLDERS[request.param]


@pytest.fixture(scope="session", params=both_sets(CASES))
def recorded(request, models):
    """One recorded case after the other: (its set, the case, our replay of it)."""
    name, case = request.param
    case = read_case(FOLDERS[name], case)
    return name, case, replay(models(name), case)


@pytest.fixture(scope="session")
def large_folder():
    """Return a function that gives the folder of the larger set, or skips the test."""

    def folder():
        if not os.environ.get("OSEDIFF_GOLDEN"):
            pytest.skip("OSEDIFF_GOLDEN names no folder with the larger recorded set")
        return FOLDERS["large"]

    return folder


@pytest.fixture
def gate(request):
    """Hold ours to what is expected within a limit, and show that something wrong would not pass."""

    def hold(what, limit, ours, expected, wrong, how):
        measured, control = _difference(ours, expected), _difference(wrong, expected)
        case = request.node.callspec.id if hasattr(request.node, "callspec") else ""
        request.config.stash.setdefault(ROWS, []).append((case, what, limit, measured, control, how))
        assert measured <= limit, f"{what} differs by {measured:.2e}, more than {limit:.0e}"
        assert control > limit, f"the negative control ({how}) differs by only {control:.2e}"

    return hold


def _difference(a, b):
    assert a.shape == b.shape
    return (a.double() - b.double()).abs().max().item()


def pytest_terminal_summary(terminalreporter, config):
    """Print the parity table: what was compared, how near it has to be and is, how far the control is."""
    rows = config.stash.get(ROWS, [])
    if rows:
        terminalreporter.section("parity with the published implementation (largest absolute difference)")
    for case, what, limit, measured, control, how in rows:
        terminalreporter.write_line(
            f"{what:26} {case:42} gate {limit:.0e}  is {measured:.1e}  control {control:.1e} ({how})"
        )

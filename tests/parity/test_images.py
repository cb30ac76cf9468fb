"""Colour matching, the blending window and resizing against the published implementation."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.gaussian import gaussian_window
from osediff_core.color import adain, low_frequencies, match_color, wavelet
from osediff_core.resize import resize_bicubic

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module", params=["shipped-0", *(f"large-{i}" for i in range(3))])
def colours(request, large_folder):
    """One recorded case of colour matching, its images (1, 3, H, W), 8-bit ones as floats in [0, 1]."""
    where, index = request.param.split("-")
    folder = GOLDEN if where == "shipped" else large_folder()
    tensors = load_file(folder / "d_colorfix.safetensors")
    case = {key.split(".")[1]: t[None] for key, t in tensors.items() if key.startswith(f"{index}.")}
    return {key: t.float() / 255 if t.dtype == torch.uint8 else t for key, t in case.items()}


def to_8_bit(x):
    """Truncate to 8 bit as the published code does."""
    return (x.clamp(0, 1) * 255).to(torch.uint8).float()


def test_adain(colours, gate):
    sr, reference = colours["target_u8"], colours["source_u8"]
    means = sr - sr.mean(dim=(2, 3), keepdim=True) + reference.mean(dim=(2, 3), keepdim=True)
    gate("adain", 1e-5, adain(sr, reference), colours["adain_float"], means, "means only")


def test_wavelet(colours, gate):
    sr, reference = colours["target_u8"], colours["source_u8"]
    four = sr - low_frequencies(sr, 4) + low_frequencies(reference, 4)
    gate("wavelet", 1e-5, wavelet(sr, reference), colours["wavelet_float"], four, "four levels, not five")
    low = low_frequencies(sr)
    gate("wavelet, low", 1e-5, low, colours["wavelet_target_low"], low_frequencies(sr, 4), "four levels")


@pytest.mark.parametrize("method", ["adain", "wavelet"])
def test_8_bit_colours(colours, gate, method):
    """Truncated as the published code does, at most one level apart: a tie may fall either way."""
    ours = to_8_bit(match_color(colours["target_u8"], colours["source_u8"], method))
    expected = colours[f"{method}_u8"] * 255
    gate(f"{method}, 8 bit", 1, ours, expected.round(), colours["target_u8"] * 255, "no matching")


@pytest.fixture(scope="module", params=["shipped", "large"])
def windows(request, large_folder):
    folder = GOLDEN if request.param == "shipped" else large_folder()
    return load_file(folder / "e_gaussian_weights.safetensors")


def test_published_window(windows, gate):
    for key, expected in windows.items():
        height, width = expected.shape
        ours = gaussian_window(height, width)
        symmetric = gaussian_window(height, width, symmetric=True)
        gate(f"window {key}", 1e-9, ours, expected, symmetric, "the symmetric window")


@pytest.mark.parametrize("case", [1, 3])
def test_resize_of_8_bit_images(gate, case):
    tensors = load_file(GOLDEN / "d_cli_resize.safetensors")
    image, expected = tensors[f"{case}.in_u8"][None], tensors[f"{case}.prepared_u8"][None]
    size = tuple(expected.shape[-2:])
    ours, through_float = resize_bicubic(image, size), resize_bicubic(image / 255, size) * 255
    gate(f"resize, 8 bit, case {case}", 0, ours, expected, through_float, "float, not rounded")
    sharper = torch.nn.functional.interpolate(image.float(), size, mode="bicubic").clamp(0, 255)
    gate(f"resize, float, case {case}", 2, through_float, expected, sharper, "bicubic with a = -0.75")

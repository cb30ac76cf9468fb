"""No seams where tiles meet, by the measure of benchmarks/seams.py, which sees those that are planted."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from benchmarks.gaussian import gaussian_window
from osediff_core import OSEDiff, restore
from osediff_core.pictures.images import read_image
from osediff_core.pipeline import unet_tiles
from osediff_core.pipeline.unet_tiles import UNetPlan, grid, predict_in_tiles
from train.demo.evaluation import quantise

ROOT = Path(__file__).parents[2]
HEIGHT, WIDTH = 44, 52
TILE, OVERLAP = 96, 32  # image pixels


@pytest.fixture(scope="module")
def seams():
    """The benchmark's own functions."""
    spec = importlib.util.spec_from_file_location("seams", ROOT / "benchmarks" / "seams.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo():
    return OSEDiff.from_pretrained(device="cpu", dtype="float32")


def pictures(seams):
    photo = read_image(ROOT / "docs" / "pictures" / "coffee_lq.png").rgb[..., :HEIGHT, :WIDTH]
    return {**seams.gradients(HEIGHT, WIDTH), "photograph": photo.float() / 255}


def tiling_of(model):
    """Return tile and overlap in latent pixels, and the boxes of a 4x result."""
    f = model.reduction
    tile, overlap = TILE // f, OVERLAP // f
    return tile, overlap, grid(4 * HEIGHT // f, 4 * WIDTH // f, tile, overlap)


@pytest.mark.parametrize("name", ["slope", "disc", "wave", "photograph"])
def test_tiles_leave_no_seam(seams, demo, name):
    lq = pictures(seams)[name]
    tile, overlap, boxes = tiling_of(demo)
    assert len(boxes) > 4
    tiles = restore(demo, lq, tile=tile, overlap=overlap)
    whole = restore(demo, lq, tile="off")
    assert not torch.equal(tiles, whole)
    step = seams.LEVEL if name != "photograph" else 8 * seams.LEVEL  # a photograph hides what is small
    seam, same_lines, control = (
        seams.seam_ratio(quantise(picture), boxes, demo.reduction)
        for picture in (tiles, whole, seams.planted(tiles, boxes, demo.reduction, step))
    )
    assert seam <= max(1.0, 1.05 * same_lines)
    assert control > 1.25 * max(1.0, seam)


def test_the_measure_is_one_on_noise_and_blind_to_slopes(seams):
    boxes = grid(64, 64, 24, 8)
    noise = torch.rand(1, 3, 256, 256, generator=torch.manual_seed(0))
    assert seams.seam_ratio(noise, boxes, 4) == pytest.approx(1, abs=0.05)
    slope = noise * 0.001 + torch.linspace(0, 1, 256)
    assert seams.seam_ratio(slope, boxes, 4) == pytest.approx(1, abs=0.05)
    assert seams.seam_ratio(seams.planted(slope, boxes, 4), boxes, 4) > 2


@pytest.mark.parametrize("symmetric", [True, False])
def test_tones_of_tiles_pass_into_each_other_along_the_whole_overlap(monkeypatch, symmetric):
    """The Gaussian windows are the control: they go over within a fifth of it. Only the window is asked, for
    how far the tones of tiles differ is a matter of the model.
    """
    side, overlap, z = 96, 32, torch.zeros(1, 1, 160, 224)
    plan = UNetPlan(160, 224, side, overlap)

    def steepest():
        boxes = iter(plan.boxes)

        def own_tone(tile):
            box = next(boxes)
            return tile + float((box.y + box.x) // (side - overlap) % 2)

        out = predict_in_tiles(own_tone, lambda done: None, plan, z)
        return max(out.diff(dim=axis).abs().max().item() for axis in (2, 3))

    ours = steepest()
    assert ours <= math.pi / 2 / overlap + 1e-6, "the steepest place of a squared sine as wide as the overlap"

    def gaussian(height, width, overlap):
        return gaussian_window(height, width, symmetric=symmetric)

    monkeypatch.setattr(unet_tiles, "blending_window", gaussian)
    assert steepest() > 2 * ours


def test_a_picture_that_fits_one_tile_is_said_to_have_no_borders(seams, demo):
    lq = pictures(seams)["slope"]
    assert "fits one tile" in seams.row(demo, "slope", lq, tile=HEIGHT * WIDTH, overlap=4)
    assert "fits one tile" not in seams.row(demo, "slope", lq, tile=48, overlap=16)

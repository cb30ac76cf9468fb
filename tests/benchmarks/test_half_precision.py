"""What half precision costs is measured on the demo, where the end of the UNet in float32 shows."""

import pytest
import torch

from benchmarks.half_precision import CHOICES, DONE, PICTURE, arithmetic, compare
from osediff_core.pictures.images import read_image


@pytest.fixture(scope="module")
def rows():
    lq = read_image(PICTURE).rgb[..., 20:52, 40:72]
    found = compare({"device": "cpu"}, lq)
    return {(row.dtype, row.exact): row for row in found}


@pytest.mark.slow
def test_every_choice_is_measured_in_both_formats(rows):
    assert len(rows) == 2 * (len(CHOICES) + 1)
    assert all(0 < row.x0 < 0.1 and 30 < row.psnr < 120 for row in rows.values())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_end_of_the_unet_in_float32_brings_the_latent_nearer(rows, dtype):
    done, nothing = rows[dtype, DONE.name], rows[dtype, "nothing"]
    assert done.x0 < 0.9 * nothing.x0
    assert done.psnr > nothing.psnr


def test_emulated_layers_are_float32s_rounded_once():
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(shape, generator=generator).half() for shape in ((1, 64, 9, 9), (32, 64, 3, 3)))
    with arithmetic(torch.float16, torch.device("cpu")):
        found = torch.conv2d(x, w)
    assert torch.equal(found, torch.conv2d(x.float(), w.float()).half())
    with arithmetic(torch.bfloat16, torch.device("cpu")):  # the control: bfloat16 is left to the processor
        assert torch.conv2d(x.bfloat16(), w.bfloat16()).dtype == torch.bfloat16

import math

import pytest
import torch

from osediff_core.color import adain, low_frequencies, match_color
from osediff_core.errors import OSEDiffError


def pictures(height, width):
    g = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, height, width, generator=g), torch.rand(2, 3, height, width, generator=g) * 0.1


def test_adain_statistics_are_unbiased_and_have_the_published_epsilon():
    """On a few low-contrast pixels the divisor n - 1 and the 1e-5 both show."""
    sr, reference = pictures(2, 2)
    for b in range(2):
        for c in range(3):
            x, y = sr[b, c].flatten().tolist(), reference[b, c].flatten().tolist()
            mx, my = sum(x) / 4, sum(y) / 4
            sx = math.sqrt(sum((v - mx) ** 2 for v in x) / 3 + 1e-5)
            sy = math.sqrt(sum((v - my) ** 2 for v in y) / 3 + 1e-5)
            expected = (x[0] - mx) / sx * sy + my
            assert adain(sr, reference)[b, c, 0, 0].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", ["adain", "wavelet"])
def test_each_image_of_a_batch_is_matched_alone(method):
    sr, reference = pictures(9, 7)
    alone = torch.cat([match_color(a[None], b[None], method) for a, b in zip(sr, reference, strict=True)])
    assert torch.allclose(match_color(sr, reference, method), alone, atol=1e-6)


@pytest.mark.parametrize("method", ["adain", "wavelet"])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 400)])
def test_tiny_pictures_stay_finite(method, size):
    out = match_color(*pictures(*size), method)
    assert out.isfinite().all()
    assert out.shape[-2:] == size


def test_one_pixel_takes_the_colour_of_the_reference():
    sr, reference = pictures(1, 1)
    assert torch.allclose(match_color(sr, reference), reference, atol=1e-6)


def test_wavelet_keeps_detail_and_takes_colour():
    sr, reference = pictures(64, 64)
    out = match_color(sr, reference + 0.4, "wavelet")
    assert abs(out.mean() - (reference + 0.4).mean()) < 0.03
    assert (out - low_frequencies(out)).std() > 5 * (reference - low_frequencies(reference)).std()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("method", ["adain", "wavelet", "none"])
def test_results_are_float32_in_range(method, dtype):
    sr, reference = pictures(8, 8)
    out = match_color((sr * 3 - 1).to(dtype), reference.to(dtype), method)
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1


def test_none_only_clamps():
    sr, reference = pictures(8, 8)
    assert torch.equal(match_color(sr * 2, reference, "none"), (sr * 2).clamp(0, 1))


def test_mistakes_are_sentences():
    sr, reference = pictures(8, 8)
    with pytest.raises(OSEDiffError, match="adain, wavelet, none"):
        match_color(sr, reference, "histogram")
    with pytest.raises(OSEDiffError, match="one size"):
        match_color(sr, reference[..., :4], "adain")

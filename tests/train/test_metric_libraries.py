"""The libraries behind the metrics, where they are installed, with random weights in place of the real ones.

That shows the plumbing: what goes in and comes out. It shows nothing of the real weights' figures.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from osediff_core.pictures.images import write_image
from train.evaluation.measures import build_measure, measure_set
from train.evaluation.metric_table import read_metrics, version_of, why_missing
from train.evaluation.pairs import pair_up

CPU = torch.device("cpu")


def needs(*libraries):
    absent = [name for name in libraries if version_of(name) == "absent"]
    return pytest.mark.skipif(bool(absent), reason=f"needs {', '.join(absent)}: the evaluate extra")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder of weights of our own in the place of torch.hub's."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    hq = torch.randint(0, 256, (1, 3, 96, 96), generator=generator, dtype=torch.uint8)
    near = (hq.int() + 5).clamp(0, 255).byte()
    far = torch.randint(0, 256, hq.shape, generator=generator, dtype=torch.uint8)
    return hq, near, far


def rises(measure, pictures):
    hq, near, far = pictures
    same, close, distant = (measure(sr, hq) for sr in (hq, near, far))
    assert same == pytest.approx(0, abs=1e-5)
    assert same < close < distant
    return distant


@needs("torchmetrics", "torchvision")
def test_lpips_reads_alexnet_from_the_hubs_folder(hub, pictures):
    import torchvision

    metric = read_metrics()["lpips"]
    assert "alexnet" in why_missing(metric)
    torch.manual_seed(0)
    network = torchvision.models.alexnet(weights=None)
    torch.save(network.state_dict(), hub / metric.weights[0].file)
    assert why_missing(metric) is None
    first = rises(build_measure("lpips", CPU), pictures)
    torch.manual_seed(1)
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), hub / metric.weights[0].file)
    assert rises(build_measure("lpips", CPU), pictures) != first  # the file is what is read


@needs("torchmetrics", "torchvision")
def test_dists_is_of_vgg(monkeypatch, pictures):
    import torchvision
    from torchmetrics.functional.image import dists

    monkeypatch.setattr(dists, "vgg16", lambda weights: torchvision.models.vgg16(weights=None))
    torch.manual_seed(0)
    rises(build_measure("dists", CPU), pictures)


@needs("piq", "torchvision")
def test_brisque_reads_its_vectors(hub, pictures):
    metric = read_metrics()["brisque"]
    generator = torch.Generator().manual_seed(0)
    torch.save(
        (torch.randn(7, generator=generator), torch.randn(7, 36, generator=generator)),
        hub / metric.weights[0].file,
    )
    measure = build_measure("brisque", CPU)
    hq, near, _ = pictures
    assert measure(hq, None) == measure(hq, None)
    assert abs(measure(hq, None) - measure(near, None)) < 5


@needs("piq", "torchvision")
def test_clipiqa_is_a_share_between_two_texts(monkeypatch, pictures, tmp_path):
    from piq.feature_extractors import clip

    torch.manual_seed(0)
    network = clip.CLIP(
        embed_dim=64, image_resolution=224, vision_layers=(1, 1, 1, 1), vision_width=8,
        vision_patch_size=None, context_length=77, vocab_size=49408, transformer_width=64,
        transformer_heads=1, transformer_layers=1,
    )  # fmt: skip
    monkeypatch.setattr(clip, "load", lambda: network)
    monkeypatch.setenv("HOME", str(tmp_path))
    metric = read_metrics()["clipiqa"]
    for weights in metric.weights:
        weights.path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.randint(1, 49000, (2, 77)), weights.path)
    assert why_missing(metric) is None
    values = {build_measure("clipiqa", CPU)(picture, None) for picture in pictures}
    assert len(values) == 3
    assert all(0 < value < 1 for value in values)


def random_like(name, tensor):
    """Weights that keep the size of what goes through; norms that change nothing."""
    if tensor.ndim > 1:
        return torch.randn(tensor.shape) * (2 / tensor[0].numel()) ** 0.5
    return (
        torch.ones_like(tensor) if name.endswith(("bn.weight", "running_var")) else torch.zeros_like(tensor)
    )


@pytest.mark.slow
@needs("torchmetrics", "torch_fidelity")
def test_distances_of_sets_read_inception(hub, tmp_path, monkeypatch):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

    metric = read_metrics()["fid"]
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        patch.setattr(
            "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {}
        )
        weights = Inception("random", ["2048"]).state_dict()
    weights = {name: random_like(name, tensor) for name, tensor in weights.items()}
    torch.save(weights, hub / metric.weights[0].file)
    assert why_missing(metric) is None
    generator = torch.Generator().manual_seed(0)
    for i in range(4):
        for folder, low in (("hq", 0), ("near", 0), ("far", 200)):
            (tmp_path / folder).mkdir(exist_ok=True)
            picture = torch.randint(low, 256, (1, 3, 40, 40), generator=generator, dtype=torch.uint8)
            write_image(tmp_path / folder / f"{i}.png", picture)
    for name in ("fid", "kid"):
        near, far = (measure_set(name, pair_up(tmp_path / f, tmp_path / "hq"), CPU) for f in ("near", "far"))
        same = measure_set(name, pair_up(tmp_path / "hq", tmp_path / "hq"), CPU)
        assert abs(same) < 0.1 * far
        assert near < 0.5 * far
        assert measure_set(name, pair_up(tmp_path / "far", tmp_path / "hq"), CPU) == far


def letters(blur):
    """Two lines of text as a picture, blurred; the originals of a test that reads."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    image = Image.new("RGB", (320, 160), "white")
    for line, text in enumerate(("HELLO WORLD", "one step 2024")):
        ImageDraw.Draw(image).text((20, 20 + 60 * line), text, "black", ImageFont.load_default(28))
    image = image.filter(ImageFilter.GaussianBlur(blur))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


@pytest.mark.slow
@needs("rapidocr", "onnxruntime")
def test_letters_that_a_blur_took_are_errors():
    measure = build_measure("text", CPU)
    sharp = letters(0)
    assert measure(sharp, sharp) == 0
    assert 0 < measure(letters(3), sharp) < measure(letters(8), sharp) == 1
    assert math.isnan(measure(sharp, torch.full_like(sharp, 255)))


@pytest.mark.slow
@needs("dlib/dlib_bin", "face_recognition_models", "scikit-image")
def test_a_face_is_like_itself_and_less_so_when_it_is_blurred():
    from skimage.data import astronaut

    from train.evaluation.fidelity import gaussian_blur

    hq = torch.from_numpy(astronaut()).permute(2, 0, 1)[None, :, :256, 100:356].contiguous()
    measure = build_measure("face", CPU)
    assert measure(hq, hq) == pytest.approx(1, abs=1e-6)
    blurred = [measure((gaussian_blur(hq / 255, s) * 255).byte(), hq) for s in (1, 4)]
    assert 1 > blurred[0] > blurred[1] + 0.03
    assert math.isnan(measure(hq[..., 200:, :100], hq[..., 200:, :100]))

"""The data set: what a sample number means, and what it does with all kinds of files."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from osediff_core.errors import OSEDiffError
from train.data import DataConfig, PictureDataset, build_dataset, draw_crop, find_pictures, step_indices
from train.degradation import DegradationConfig

DEGRADATION = DegradationConfig()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write(path: Path, height: int = 40, width: int = 56, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in range(5):
        write(tmp_path / "pictures" / f"{number}.png", seed=number)
    return tmp_path / "pictures"


def dataset(*sources: Path, seed: int = 7, **settings) -> PictureDataset:
    config = DataConfig(sources=tuple(map(str, sources)), **{"crop": 24, **settings})
    return build_dataset(config, DEGRADATION, seed)


def test_a_sample_is_a_pair_in_range(folder):
    sample = dataset(folder)[3]
    assert sample["index"] == 3
    for key in ("hq", "lq"):
        assert sample[key].shape == (3, 24, 24)
        assert sample[key].dtype == torch.float32
        assert 0 <= sample[key].min() <= sample[key].max() <= 1
    assert not torch.equal(sample["hq"], sample["lq"])


def test_the_same_number_is_the_same_sample_whatever_came_before(folder):
    a, b = dataset(folder), dataset(folder)
    for index in (0, 4, 11):
        b[index + 1]
        for key in ("hq", "lq"):
            assert torch.equal(a[index][key], b[index][key])
    assert not torch.equal(a[0]["hq"], dataset(folder, seed=8)[0]["hq"])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_run(folder, workers):
    def batches(count: int) -> list[dict]:
        sampler = step_indices(1, 4, 2)
        return list(DataLoader(dataset(folder), batch_size=2, sampler=sampler, num_workers=count))

    wanted, got = batches(0), batches(workers)
    assert [batch["index"].tolist() for batch in got] == [[2, 3], [4, 5], [6, 7]]
    for a, b in zip(wanted, got, strict=True):
        assert torch.equal(a["hq"], b["hq"])
        assert torch.equal(a["lq"], b["lq"])


def test_an_epoch_sees_every_picture_once_and_the_next_in_another_order_with_other_crops(tmp_path):
    for number in range(6):
        flat = np.full((40, 40, 3), 40 * number, dtype=np.uint8)
        flat[:, :, 0] = np.arange(40)  # so that crops differ
        Image.fromarray(flat).save(tmp_path / f"{number}.png")
    data = dataset(tmp_path, flip_prob=0.0)
    samples = [data[index] for index in range(12)]
    shades = [round(sample["hq"][1, 0, 0].item() * 255) // 40 for sample in samples]
    assert sorted(shades[:6]) == sorted(shades[6:]) == list(range(6))
    assert shades[:6] != shades[6:]
    first = {shade: sample["hq"] for shade, sample in zip(shades[:6], samples[:6], strict=True)}
    later = {shade: sample["hq"] for shade, sample in zip(shades[6:], samples[6:], strict=True)}
    assert sum(not torch.equal(first[shade], later[shade]) for shade in range(6)) >= 4


def test_crops_come_from_the_whole_picture():
    picture = torch.arange(40, dtype=torch.uint8).view(1, 1, 40).expand(3, 40, 40).contiguous()
    config = DataConfig(crop=16, flip_prob=0.0)
    starts = {int(draw_crop(picture, config, seeded(seed))[0, 0, 0]) for seed in range(300)}
    assert starts == set(range(25))


def test_flips_and_turns():
    picture = torch.zeros(3, 16, 16, dtype=torch.uint8)
    picture[:, 0, 0] = 255
    config = DataConfig(crop=16, flip_prob=0.5, rotate=True)
    corners = {tuple(draw_crop(picture, config, seeded(seed))[0].nonzero()[0].tolist()) for seed in range(40)}
    assert corners == {(0, 0), (0, 15), (15, 0), (15, 15)}
    upright = DataConfig(crop=16, flip_prob=1.0)
    assert draw_crop(picture, upright, seeded())[0, 0, 15] == 255


@pytest.mark.parametrize("size", [(10, 40), (40, 10), (1, 1), (3, 2)])
def test_small_pictures_are_continued_by_reflection(size):
    picture = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=seeded())
    crop = draw_crop(picture, DataConfig(crop=24, flip_prob=0.0), seeded())
    assert crop.shape == (3, 24, 24)
    padding = [(0, 0)] + [(0, max(0, 24 - side)) for side in size]
    whole = np.pad(picture.numpy(), padding, mode="reflect" if min(size) > 1 else "edge")
    rows, columns = whole.shape[1] - 23, whole.shape[2] - 23
    found = [
        np.array_equal(whole[:, top : top + 24, left : left + 24], crop.numpy())
        for top in range(rows)
        for left in range(columns)
    ]
    assert any(found)


def test_shrinking_uses_larger_windows_but_never_enlarges():
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 1, 64).expand(3, 64, 64).contiguous()
    config = DataConfig(crop=16, shrink=0.5, flip_prob=0.0)
    spans = []
    for seed in range(40):
        row = draw_crop(ramp, config, seeded(seed))[0, 0].int()
        spans.append(int(row[12] - row[3]) / 9)  # grey levels per pixel = 1 / factor
    assert min(spans) >= 0.99
    assert max(spans) <= 2.2
    assert max(spans) - min(spans) > 0.5
    small = ramp[:, :16, :16].contiguous()
    assert torch.equal(draw_crop(small, config, seeded()), small)


def test_broken_pictures_are_skipped_and_counted(folder, caplog):
    (folder / "0.png").write_bytes(b"no picture")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:200])
    (folder / "2.png").write_bytes(b"")
    data = dataset(folder)
    with caplog.at_level(logging.WARNING):
        for index in range(10):
            assert data[index]["hq"].shape == (3, 24, 24)
    assert {path.name for path in data.unreadable} == {"0.png", "1.png", "2.png"}
    warnings = [record.getMessage() for record in caplog.records if "Skipping" in record.getMessage()]
    assert len(warnings) == 3
    assert "3 so far" in warnings[-1]


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(OSEDiffError, match="None of the 1 training pictures"):
        dataset(tmp_path)[0]


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "CMYK", "I;16"])
def test_all_kinds_of_pixels_become_rgb(tmp_path, mode):
    ramp = np.tile(np.linspace(0, 255, 32), (32, 1))
    if mode == "I;16":
        image = Image.fromarray((ramp * 257).astype(np.uint16))
    else:
        image = Image.fromarray(ramp.astype(np.uint8)).convert("RGB").convert(mode)
    image.save(tmp_path / "a.tif")
    hq = dataset(tmp_path, flip_prob=0.0)[0]["hq"]
    assert hq.shape == (3, 24, 24)
    assert hq[:, :, -4:].mean() - hq[:, :, :4].mean() > 0.3  # dark left, bright right, not clipped


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".bmp", ".PNG"])
def test_formats(tmp_path, suffix):
    write(tmp_path / f"a{suffix}")
    assert dataset(tmp_path)[0]["hq"].std() > 0.1


def test_the_cache_saves_reading_and_keeps_to_its_budget(folder, monkeypatch):
    import osediff_core.images as images

    read = images.read_image
    reads = []
    monkeypatch.setattr(images, "read_image", lambda path: reads.append(path) or read(path))
    roomy, none = dataset(folder), dataset(folder, cache_mb=0)
    for index in range(15):
        assert torch.equal(roomy[index]["hq"], none[index]["hq"])
    assert len(reads) == 5 + 15
    tight = dataset(folder)
    tight._cache.budget = 2 * 3 * 40 * 56
    for index in range(15):
        tight[index]
        assert sum(picture.nbytes for picture in tight._cache.pictures.values()) <= tight._cache.budget


def test_sources_expand_in_order_and_repeat(folder):
    write(folder / "deep" / "er" / "z.jpg")
    (folder / "notes.md").write_text("not a picture")
    (folder / "list.txt").write_text("# a list\n\n3.png\n3.png\ndeep\n")
    names = [path.name for path in find_pictures([folder / "list.txt", folder / "[01].png"])]
    assert names == ["3.png", "3.png", "z.jpg", "0.png", "1.png"]
    assert len(find_pictures([folder])) == 6
    assert len(find_pictures([folder, folder])) == 12


def test_missing_sources_are_named(folder):
    for source in (folder / "absent", folder / "*.gif"):
        with pytest.raises(OSEDiffError, match="does not exist or holds no picture") as caught:
            find_pictures([source])
        assert str(source) in str(caught.value)
    with pytest.raises(OSEDiffError, match=r"data\.sources"):
        find_pictures([])


@pytest.mark.parametrize(
    "settings", [{"crop": 8}, {"shrink": 0.0}, {"shrink": 1.5}, {"flip_prob": 2.0}, {"cache_mb": -1}]
)
def test_senseless_settings_are_refused(settings):
    with pytest.raises(OSEDiffError, match=next(iter(settings))):
        DataConfig(**settings)

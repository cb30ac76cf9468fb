"""The data set: what a sample number means, and what it does with all kinds of files."""

from __future__ import annotations

import io
import logging
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from osediff_core.errors import OSEDiffError
from train.data import (
    REMARKS,
    DataConfig,
    PictureDataset,
    build_dataset,
    build_validation,
    degrade_batch,
    draw_crop,
    find_pictures,
)
from train.data.crops import draw_pair, seen_corners, vary_colour
from train.data.sources import BLOCK, Mix
from train.degradation import DegradationConfig, sharpen
from train.engine.shares import Share
from train.engine.validation import Validation, build_metrics

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
        numbers = Share(rank=0, processes=1, batch_size=2, accumulation=1).batches(1, 4)
        return list(DataLoader(dataset(folder), batch_sampler=numbers, num_workers=count))

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


def test_colours_are_varied_before_the_degradation_and_only_when_asked(folder):
    plain, varied = dataset(folder), dataset(folder, vary_colour_prob=1.0)
    changed = [i for i in range(40) if not torch.equal(plain[i]["hq"], varied[i]["hq"])]
    assert 20 < len(changed) < 40  # a fifth is drawn to stay as it is
    own, control = [], []
    for index in changed:
        hq = varied[index]["hq"]
        assert 0 <= hq.min() <= hq.max() <= 1
        assert torch.equal(varied[index]["hq"], hq)
        colour, *others = (x.mean((1, 2)) for x in (hq, varied[index]["lq"], plain[index]["lq"]))
        for distances, other in zip((own, control), others, strict=True):
            distances.append((colour - other).abs().mean())
    assert sum(own) < 0.5 * sum(control)  # LQ is made from the varied crop
    half = dataset(folder, vary_colour_prob=0.5)
    some = sum(not torch.equal(plain[i]["hq"], half[i]["hq"]) for i in range(40))
    assert 0 < some < len(changed)


def test_varied_colours_keep_what_is_in_the_picture():
    crop = torch.rand(3, 16, 16, generator=seeded())
    contrasts, levels = [], []
    for seed in range(60):
        varied = vary_colour(crop, seeded(seed))
        assert varied.shape == crop.shape
        contrasts.append(varied.std().item())
        levels.append(varied.mean().item())
    assert min(contrasts) < 0.1 < 0.25 < max(contrasts)
    assert min(levels) < 0.4 < 0.6 < max(levels)


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
    assert {Path(name).name for name in data.sources[0].unreadable} == {"0.png", "1.png", "2.png"}
    warnings = [record.getMessage() for record in caplog.records if "Skipping" in record.getMessage()]
    assert len(warnings) == 3
    assert "3 so far" in warnings[-1]


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(OSEDiffError, match="None of the 1 pictures in one source"):
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
    from train.data import sources

    load, reads = sources.load, []
    monkeypatch.setattr(sources, "load", lambda item: reads.append(item) or load(item))
    roomy, none = dataset(folder), dataset(folder, cache_mb=0)
    for index in range(15):
        assert torch.equal(roomy[index]["hq"], none[index]["hq"])
    assert len(reads) == 5 + 15
    assert roomy.sources[0]._cache.used == 5 * 3 * 40 * 56
    assert none.sources[0]._cache.used == 0


@pytest.mark.parametrize(("workers", "validation", "looks"), [(1, False, 1), (0, False, 2), (1, True, 2)])
def test_folders_are_looked_through_once_where_workers_read(
    folder, monkeypatch, config, workers, validation, looks
):
    from train.data import dataset as module

    find, looked = module.find_pictures, []
    monkeypatch.setattr(module, "find_pictures", lambda names: looked.append(names) or find(names))
    made = config(
        data={"sources": (str(folder),), "validation": (str(folder / "0.png"),) if validation else ()},
        run={"workers": workers},
    )
    trained = build_dataset(made.data, made.degradation, made.run.seed)
    shown = Validation(made, SimpleNamespace(dataset=trained), None, None, {}).dataset
    assert len(looked) == looks
    assert len(shown.sources[0].items) == (1 if validation else 5)
    assert validation or torch.equal(shown[0]["hq"], trained[0]["hq"])


def test_real_pairs_may_be_validation_pictures(tmp_path, folder, config):
    hq, lq = ramp_pair(tmp_path)
    pairs = {"validation": (str(folder), str(hq)), "validation_lq": ("", str(lq))}
    made = config(data={"sources": (str(folder),), "crop": 24, "flip_prob": 0.0, **pairs})
    shown = build_validation(made.data, made.degradation, made.run.seed)
    samples = [shown[number] for number in range(12)]
    paired = {Path(s["name"]).name: bool(s["remarks"][REMARKS.index("paired")]) for s in samples}
    assert paired.pop("a_HR.png")
    assert paired
    assert not any(paired.values())
    assert sum(name.startswith("1/LQ ") for name, _ in shown.listing()) == 1
    real = next(s for s in samples if Path(s["name"]).name == "a_HR.png")
    means, there = (real[half].unfold(1, 4, 4).unfold(2, 4, 4).mean((-1, -2)) for half in ("hq", "lq"))
    assert (means - there)[:2, 2:-2, 2:-2].abs().max() < 20 / 255  # an LQ pixel is 16 levels
    with pytest.raises(OSEDiffError, match=r"one entry for each of the 2 data\.validation, got 1"):
        replace(made.data, validation_lq=(str(lq),))


def test_the_best_by_the_perceptual_term_is_the_lowest(config, folder):
    made = config(run={"best_by": "perceptual"}, data={"validation": (str(folder),)})
    shown = Validation(made, SimpleNamespace(), None, lambda sr, hq: (sr - hq).abs().mean((1, 2, 3)), {})
    hq = torch.full((2, 3, 16, 16), 0.5)
    assert shown.worth(hq, hq + 0.1, hq) == pytest.approx(-0.2)  # of pictures in [-1, 1]
    assert shown.worth(hq, hq + 0.1, hq) < shown.worth(hq, hq, hq) == 0
    with pytest.raises(OSEDiffError, match=r'run\.best_by = "perceptual" needs loss\.perceptual'):
        replace(made, loss=replace(made.loss, perceptual="none"))


@pytest.mark.parametrize("name", ["drift", "borders", "noise"])
def test_a_run_may_be_measured_by_any_metric_and_be_the_best_by_it(config, folder, name):
    made = config(run={"metrics": (name,), "best_by": name}, data={"validation": (str(folder),)})
    metrics = build_metrics(made.run.metrics, torch.device("cpu"))
    shown = Validation(made, SimpleNamespace(), None, None, metrics)
    noise = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    lq = hq = torch.full((2, 3, 32, 32), 0.5)
    near, far = shown.measured(lq, lq, hq), shown.measured(lq, 0.4 + 0.2 * noise, hq)
    assert set(near) == {"psnr", "ssim", name}
    alone = metrics[name](*[(images[:1] * 255).round().byte() for images in (lq, lq)])
    assert near[name] == pytest.approx(alone, nan_ok=True)
    if name != "borders":  # which pictures of one tile have none of
        assert near[name] < far[name]
        assert shown.worth(lq, lq, hq) > shown.worth(lq, 0.4 + 0.2 * noise, hq)


def test_the_best_is_measured_by_its_measure_alone(config, folder):
    made = config(run={"metrics": ("drift",), "best_by": "psnr"}, data={"validation": (str(folder),)})
    never = {"drift": lambda sr, other: pytest.fail("measured for nothing")}
    shown = Validation(made, SimpleNamespace(), None, lambda sr, hq: pytest.fail("measured too"), never)
    picture = torch.full((2, 3, 32, 32), 0.5)
    assert shown.worth(picture, picture + 0.1, picture) < shown.worth(picture, picture, picture)


def test_what_cannot_be_measured_is_said_before_anything_is_loaded(config, folder):
    with pytest.raises(OSEDiffError, match=r"run\.metrics expects names among .*drift.*, got fid, bogus"):
        config(run={"metrics": ("fid", "drift", "bogus")})
    with pytest.raises(OSEDiffError, match=r"run\.best_by expects one of none, psnr.*, drift, got noise"):
        config(run={"metrics": ("drift",), "best_by": "noise"})
    with pytest.raises(OSEDiffError, match=r"musiq of run\.metrics needs pyiqa"):
        build_metrics(["musiq"], torch.device("cpu"))


def test_validation_pictures_are_read_once(config, folder):
    made = config(run={"sample_count": 2}, data={"validation": (str(folder),)})
    read = []
    shown = Validation(
        made, SimpleNamespace(batch=lambda sample: read.append(sample) or "batch"), None, None, {}
    )
    assert (shown.batch, shown.batch, len(read)) == ("batch", "batch", 1)
    assert read[0]["hq"].shape == (2, 3, 64, 64)


def test_sources_expand_in_order_and_repeat(folder):
    write(folder / "deep" / "er" / "z.jpg")
    (folder / "notes.md").write_text("not a picture")
    (folder / "list.txt").write_text("# a list\n\n3.png\n3.png\ndeep\n")
    names = [Path(item.name).name for item in find_pictures([folder / "list.txt", folder / "[01].png"])]
    assert names == ["3.png", "3.png", "z.jpg", "0.png", "1.png"]
    assert len(find_pictures([folder])) == 6
    assert len(find_pictures([folder, folder])) == 12


def test_missing_sources_are_named(folder):
    for source in (folder / "absent", folder / "*.gif"):
        with pytest.raises(OSEDiffError, match="does not exist or holds no picture") as caught:
            find_pictures([source])
        assert str(source) in str(caught.value)
        assert "python -m train.pictures" in str(caught.value)
    with pytest.raises(OSEDiffError, match=r"data\.sources"):
        find_pictures([])


@pytest.mark.parametrize(
    "settings",
    [
        {"crop": 8},
        {"shrink": 0.0},
        {"shrink": 1.5},
        {"flip_prob": 2.0},
        {"vary_colour_prob": -0.1},
        {"cache_mb": -1},
        {"stream_buffer": 0},
        {"weights": (1.0,)},
        {"lq_sources": ("a",)},
    ],
)
def test_senseless_settings_are_refused(settings):
    with pytest.raises(OSEDiffError, match=next(iter(settings))):
        DataConfig(**settings)


# ---- tar shards ----------------------------------------------------------------------------------------


def shard(path: Path, names: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_shards_give_the_samples_of_the_folder_they_were_packed_from(folder, tmp_path):
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    texts = {"0.txt": b"a caption", "._0.png": b"an Apple file", "0.json": b"{}"}
    whole = shard(tmp_path / "whole.tar", {**files, **texts})
    parts = tmp_path / "parts"
    parts.mkdir()
    for part, names in enumerate((["0.png", "1.png"], ["2.png", "3.png", "4.png"])):
        shard(parts / f"part-{part:04d}.tar", {name: files[name] for name in names})
    plain = dataset(folder)
    for source in (whole, parts, parts / "part-*.tar"):
        packed = dataset(source)
        for index in range(7):
            assert torch.equal(packed[index]["lq"], plain[index]["lq"])
    assert dataset(whole)[0]["name"].startswith(str(whole) + "/")


def test_a_shard_that_is_cut_off_gives_what_it_has(folder, tmp_path, caplog):
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    path = shard(tmp_path / "a.tar", files)
    last = find_pictures([path])[2]
    path.write_bytes(path.read_bytes()[: last.offset + last.size // 2])  # in the middle of the third
    with caplog.at_level(logging.WARNING):
        data = dataset(path)
        assert "cut off" in caplog.text
        assert {data[index]["name"] for index in range(8)} == {f"{path}/{n}.png" for n in range(2)}
    assert f"Skipping a picture (1 so far): {path}/2.png" in caplog.text


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, None])
def test_what_is_no_shard_is_a_sentence(tmp_path, content):
    path = tmp_path / "a.tar"
    if content is None:  # a compressed one, which has no position to read from
        with tarfile.open(path, "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    else:
        path.write_bytes(content)
    with pytest.raises(OSEDiffError, match=r"a\.tar"):
        find_pictures([path])


# ---- several sources -----------------------------------------------------------------------------------


def test_weights_are_kept_in_every_block_and_every_picture_is_seen(tmp_path):
    for source, count in (("many", 8), ("few", 2)):
        for number in range(count):
            write(tmp_path / source / f"{number}.png", 24, 24, seed=number)
    data = dataset(tmp_path / "many", tmp_path / "few", weights=(1.0, 3.0))
    names = []
    for index in range(BLOCK + 200):
        source, place = data._mix.locate(index)
        names.append((source, place))
    assert sum(source == 0 for source, _ in names[:BLOCK]) == BLOCK // 4
    for source in (0, 1):  # each source's own sequence is gone through without a gap
        assert [place for s, place in names if s == source] == list(range(sum(s == source for s, _ in names)))
    seen = {Path(data[index]["name"]).parent.name for index in range(40)}
    assert seen == {"many", "few"}


@pytest.mark.parametrize(
    "weights", [[1.0], [1, 1, 1], [1, 0, 2], [1e-9, 1.0], [1e9, 1, 1, 1, 1], [0.3, 0.3, 0.4]]
)
def test_shares_add_up(weights):
    counts = Mix(list(map(float, weights)), 0).counts
    assert counts.sum() == BLOCK
    assert ((counts > 0) == (torch.tensor(weights) > 0)).all()


def test_a_source_of_its_own_weight_needs_all_weights(folder):
    with pytest.raises(OSEDiffError, match=r"data\.weights"):
        dataset(folder, folder, lq_sources=("", str(folder)))


# ---- real pairs ----------------------------------------------------------------------------------------


def ramp_pair(folder: Path, height: int = 12, width: int = 14, ratio: int = 4) -> tuple[Path, Path]:
    """HQ and LQ whose pixels say where they are: LQ (y, x) covers HQ (r y.., r x..)."""
    lq = np.zeros((height, width, 3), dtype=np.uint8)
    lq[..., 0], lq[..., 1] = np.arange(height)[:, None] * 16, np.arange(width) * 16
    hq = lq.repeat(ratio, 0).repeat(ratio, 1)
    for name, pixels in (("hq/a_HR.png", hq), ("lq/a_LR4.png", lq)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return folder / "hq", folder / "lq"


@pytest.mark.parametrize("crop", [24, 64])  # 64 is more than the picture has
def test_pairs_stay_in_register(tmp_path, crop):
    hq, lq = (
        torch.from_numpy(np.array(Image.open(next(f.iterdir())))).permute(2, 0, 1)
        for f in ramp_pair(tmp_path)
    )
    config = DataConfig(crop=crop, rotate=True)
    turned = set()
    for seed in range(12):
        sharp, soft = draw_pair(hq, lq, config, seeded(seed))
        assert sharp.shape == soft.shape == (3, crop, crop)
        means = sharp.float().unfold(1, 4, 4).unfold(2, 4, 4).mean((-1, -2))
        middle = soft.float().unfold(1, 4, 4).unfold(2, 4, 4).mean((-1, -2))
        inner = (means - middle)[:2, 2:-2, 2:-2].abs()
        assert inner.max() < 20  # one LQ pixel is 16 levels, and bicubic rounds corners where it mirrors
        assert inner.median() < 1
        turned.add((bool(means[0, 0, 0] == means[0, 0, 1]), bool(means[0, 0, 0] < means[0, -1, -1])))
    assert len(turned) > 2
    shifted, _ = draw_pair(hq.roll(4, 2), lq, config, seeded(0))
    exact, _ = draw_pair(hq, lq, config, seeded(0))
    assert not torch.equal(shifted, exact)  # the measure above would see one LQ pixel


def test_pairs_beside_degradation(tmp_path, folder):
    hq, lq = ramp_pair(tmp_path)
    data = dataset(folder, hq, weights=(1.0, 1.0), lq_sources=("", str(lq)))
    samples = [data[index] for index in range(12)]
    paired = [bool(sample["remarks"][REMARKS.index("paired")]) for sample in samples]
    assert 0 < sum(paired) < 12
    assert [Path(sample["name"]).name == "a_HR.png" for sample in samples] == paired


def test_a_pair_that_does_not_fit_is_passed_over_and_one_that_is_missing_refused(tmp_path, caplog):
    hq, lq = ramp_pair(tmp_path)
    write(hq / "b.png", 50, 50)
    with pytest.raises(OSEDiffError, match=r"1 of 2 HQ pictures have no LQ.*b\.png"):
        dataset(hq, lq_sources=(str(lq),))
    write(lq / "b.png", 12, 12)
    with caplog.at_level(logging.WARNING):
        data = dataset(hq, lq_sources=(str(lq),))
        assert {Path(data[index]["name"]).name for index in range(6)} == {"a_HR.png"}
    assert "whole number of times" in caplog.text
    write(lq / "b_LR4.png", 12, 12)
    with pytest.raises(OSEDiffError, match="halves of pairs"):
        dataset(hq, lq_sources=(str(lq),))
    with pytest.raises(OSEDiffError, match="multiple of 4"):
        dataset(*[hq / "a_HR.png"], lq_sources=(str(lq / "a_LR4.png"),), crop=26)[0]


# ---- what is counted, and where LQ is made -------------------------------------------------------------


def test_remarks_count_what_is_odd(tmp_path):
    write(tmp_path / "a.png")
    Image.new("L", (20, 40)).save(tmp_path / "b.png")
    Image.new("CMYK", (40, 40)).save(tmp_path / "c.jpg")
    (tmp_path / "d.png").write_bytes(b"broken")
    data = dataset(tmp_path)
    total = torch.stack([data[index]["remarks"] for index in range(4)]).sum(0)  # an epoch
    counts = dict(zip(REMARKS, total.tolist(), strict=True))
    assert counts["unreadable"] == 1
    assert counts["small"] == counts["grey"] >= 1
    assert counts["cmyk"] >= 1
    assert counts["paired"] == 0


def test_the_device_makes_what_the_workers_make(folder, tmp_path):
    hq, lq = ramp_pair(tmp_path)
    data = DataConfig((str(folder), str(hq)), weights=(1.0, 1.0), lq_sources=("", str(lq)), crop=24)
    there, here = (DegradationConfig(where=where) for where in ("workers", "device"))
    batches = [
        next(iter(DataLoader(build_dataset(data, config, 7), batch_size=8, sampler=range(8))))
        for config in (there, here)
    ]
    wanted, raw = batches[0]["lq"], batches[1]
    rest = (raw["index"], raw["remarks"])
    assert torch.equal(degrade_batch(raw["hq"], raw["lq"], *rest, here, 7), wanted)
    assert not torch.equal(raw["lq"], wanted)
    assert torch.equal(degrade_batch(raw["hq"], raw["lq"], *rest, there, 7), raw["lq"])


def test_whole_pictures_are_squeezed(tmp_path):
    ramp = np.tile(np.arange(96, dtype=np.uint8)[:, None, None] * 2, (1, 48, 3))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    hq = dataset(tmp_path, whole=True, flip_prob=0.0)[0]["hq"] * 255
    assert hq.shape == (3, 24, 24)
    assert (hq[0, 1:-1, 0] - (torch.arange(1, 23) * 8 + 3)).abs().max() <= 1.01
    with pytest.raises(OSEDiffError, match=r"data\.whole"):
        dataset(tmp_path, whole=True, lq_sources=(str(tmp_path),))


def test_sharpening_changes_the_target_too(folder):
    plain = dataset(folder)[0]
    config = DataConfig((str(folder),), crop=24)
    sharp = build_dataset(config, DegradationConfig(sharpen=True), 7)[0]
    assert torch.equal(sharp["hq"], sharpen(plain["hq"]))
    assert not torch.equal(sharp["hq"], plain["hq"])
    assert not torch.equal(sharp["lq"], plain["lq"])


def write_cutout(path: Path, seen: np.ndarray, seed: int = 0) -> Path:
    """Write RGBA, one colour where `seen` (H, W) is true, noise hidden elsewhere."""
    rgba = np.random.default_rng(seed).integers(0, 256, (*seen.shape, 4), dtype=np.uint8)
    rgba[seen, :3], rgba[..., 3] = (200, 100, 50), np.where(seen, 255, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgba).save(path)
    return path


@pytest.mark.parametrize("settings", [{}, {"shrink": 0.5}, {"crop": 64}, {"whole": True}, {"rotate": True}])
def test_hidden_colours_are_no_target(tmp_path, settings):
    seen = np.zeros((50, 70), bool)
    seen[10:30, 20:60] = True
    samples = dataset(write_cutout(tmp_path / "a.png", seen), **settings)
    for index in range(5):
        hq = samples[index]["hq"]
        assert (hq - torch.tensor([200, 100, 50]).view(3, 1, 1) / 255).abs().max() < 0.01


def test_crops_keep_to_what_is_seen_and_lie_anywhere_in_it():
    seen = torch.zeros(60, 90, dtype=torch.bool)
    seen[5:40, 50:88] = True
    corners = seen_corners(seen, 24)
    assert len(corners) == (35 - 24 + 1) * (38 - 24 + 1)
    assert all(bool(seen[top : top + 24, left : left + 24].all()) for top, left in corners.tolist())
    position = torch.arange(60 * 90).remainder(251).to(torch.uint8).view(1, 60, 90).repeat(3, 1, 1)
    marked = torch.where(seen, position, 255)
    config = DataConfig(crop=24, shrink=1.0)
    crops = [draw_crop(marked, config, seeded(seed), seen) for seed in range(40)]
    assert max(int(crop.max()) for crop in crops) < 255
    assert len({int(crop[0, 0, 0]) for crop in crops}) > 20
    assert max(int(draw_crop(marked, config, seeded(seed)).max()) for seed in range(40)) == 255


def test_a_crop_shows_nearly_the_most_where_none_is_clean():
    seen = torch.zeros(80, 80, dtype=torch.bool)
    seen[60:70, 60:70] = True
    counts = [
        int(seen[top : top + 24, left : left + 24].sum()) for top, left in seen_corners(seen, 24).tolist()
    ]
    assert min(counts) >= 90
    assert len(counts) > 100
    assert seen_corners(seen, 200).tolist() == [[0, 0]]


def test_an_opaque_alpha_changes_no_sample(tmp_path):
    rgb = Image.open(write(tmp_path / "plain" / "a.png"))
    (tmp_path / "alpha").mkdir()
    rgb.convert("RGBA").save(tmp_path / "alpha" / "a.png")
    one, other = (dataset(tmp_path / name / "a.png", shrink=0.5) for name in ("plain", "alpha"))
    assert all(torch.equal(one[i]["hq"], other[i]["hq"]) for i in range(4))


def test_a_picture_that_shows_nothing_is_passed_over(tmp_path, caplog):
    write_cutout(tmp_path / "p" / "empty.png", np.zeros((40, 40), bool))
    write(tmp_path / "p" / "full.png")
    samples = dataset(tmp_path / "p")
    with caplog.at_level(logging.WARNING):
        assert {Path(samples[index]["name"]).name for index in range(4)} == {"full.png"}
    assert "empty.png shows nothing" in caplog.text


@pytest.mark.parametrize("cut", ["hq", "lq", "both"])
def test_pairs_keep_to_what_is_seen_in_both(tmp_path, cut):
    seen = np.zeros((40, 60), bool)
    seen[8:36, 20:56] = True
    every = np.ones_like(seen)
    write_cutout(tmp_path / "hq" / "a.png", (every if cut == "lq" else seen).repeat(2, 0).repeat(2, 1))
    write_cutout(tmp_path / "lq" / "a.png", every if cut == "hq" else seen)
    samples = dataset(tmp_path / "hq", lq_sources=(str(tmp_path / "lq"),))
    for index in range(6):
        for half in ("hq", "lq"):
            wrong = (samples[index][half] - torch.tensor([200, 100, 50]).view(3, 1, 1) / 255).abs()
            assert wrong.max() < 0.01


def test_grey_files_are_counted_as_grey(tmp_path):
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8))
    for name, picture in (("l", grey), ("la", grey.convert("LA")), ("rgb", grey.convert("RGB"))):
        picture.save(tmp_path / f"{name}.png")
        remarks = dataset(tmp_path / f"{name}.png")[0]["remarks"]
        assert int(remarks[REMARKS.index("grey")]) == (name != "rgb")

"""Hugging Face data sets as sources: by number where that is possible, in order where it is not."""

from __future__ import annotations

import io
import logging

import datasets
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from osediff_core.errors import OSEDiffError
from train.data import DataConfig, build_dataset
from train.data.streams import Reader
from train.degradation import DegradationConfig


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 24), (10 * number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with 7 pictures of red 0, 10, ..., 60 in two Parquet files; number 5 is broken."""
    folder = tmp_path_factory.mktemp("parquet")
    rows = [{"bytes": b"broken" if n == 5 else encoded(n), "path": None} for n in range(7)]
    for part, (first, last) in enumerate(((0, 4), (4, 7))):
        table = datasets.Dataset.from_dict({"image": rows[first:last], "text": ["x"] * (last - first)})
        table = table.cast_column("image", datasets.Image())
        table.to_parquet(folder / f"train-{part:05d}.parquet")
    return folder


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def source(folder, **options) -> str:
    options = {"data_files": f"{folder}/*.parquet", **options}
    return "hf:parquet?" + "&".join(f"{key}={value}" for key, value in options.items())


def dataset(*sources: str, **settings):
    config = DataConfig(sources, **{"crop": 16, "flip_prob": 0.0, "stream_buffer": 3, **settings})
    return build_dataset(config, DegradationConfig(), 7)


def red(sample) -> int:
    return round(sample["hq"][0, 0, 0].item() * 255) // 10


def test_a_reader_goes_on_for_ever_and_back(folder):
    reader = Reader(source(folder))
    assert [row.number for row in reader.read(5, 5)] == [5, 6, 0, 1, 2]
    assert [row.number for row in reader.read(70, 2)] == [0, 1]
    assert [row.number for row in reader.read(4, 1)] == [4]
    assert reader.read(2, 1)[0].read() == encoded(2)
    assert Reader(source(folder)).read(23, 1)[0].number == 2  # as after a resume, the length unknown


def test_a_stream_shows_all_and_skips_what_is_broken(folder, caplog):
    data = dataset(source(folder))
    with caplog.at_level(logging.WARNING):
        seen = [red(data[index]) for index in range(21)]  # 7 blocks of 3: every picture three times
    assert "#5" in caplog.text
    assert set(seen) == {0, 1, 2, 3, 4, 6}
    assert seen[:3] != [0, 1, 2] or seen[3:6] != [3, 4, 6]  # shuffled within blocks
    assert sorted(seen[:3]) == [0, 1, 2]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_a_resume_do_not_change_a_stream(folder, workers):
    def numbers(count: int, first: int) -> list[int]:
        loader = DataLoader(
            dataset(source(folder)), batch_size=2, sampler=range(first, 20), num_workers=count
        )
        return [n for batch in loader for n in (batch["hq"][:, 0, 0, 0] * 25.5).round().int().tolist()]

    wanted = numbers(0, 0)
    assert numbers(workers, 0) == wanted
    assert numbers(workers, 8) == wanted[8:]


def test_a_table_is_a_source_like_a_folder(folder):
    data = dataset(source(folder, streaming="false"))
    epoch = [red(data[index]) for index in range(7)]
    assert sorted({*epoch}) == [0, 1, 2, 3, 4, 6]
    assert epoch != sorted(epoch)
    both = dataset(source(folder, streaming="false"), source(folder), weights=(1.0, 1.0))
    assert both[0]["hq"].shape == (3, 16, 16)


def test_a_stream_is_not_pooled(folder):
    with pytest.raises(OSEDiffError, match=r"data\.weights"):
        dataset(source(folder), source(folder))
    with pytest.raises(OSEDiffError, match="cannot be paired"):
        dataset(source(folder), lq_sources=(str(folder),))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"column": "picture"}, ["picture", "image, text"]),
        ({"colum": "image"}, ["split", "column", "colum=image"]),
        ({"split": "test"}, ["cannot be opened", "test"]),
        ({"column": "text"}, ["holds no encoded picture", "'text'"]),
    ],
)
def test_mistakes_are_sentences(folder, options, words, caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(OSEDiffError) as error:
        dataset(source(folder, **options))[0]
    said = str(error.value) + caplog.text
    assert [word for word in words if word not in said] == []


def test_raw_bytes_serve_as_pictures(tmp_path):
    datasets.Dataset.from_dict({"jpg": [encoded(n) for n in range(3)]}).to_parquet(tmp_path / "a.parquet")
    data = dataset(source(tmp_path, column="jpg"))
    assert sorted(red(data[index]) for index in range(3)) == [0, 1, 2]
    assert torch.is_tensor(data[0]["lq"])

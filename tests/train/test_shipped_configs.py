"""Every configuration in train/configs is read strictly, so that none of them rots."""

from __future__ import annotations

from pathlib import Path

import pytest

from osediff_core import OSEDiffError
from train.base.run import BaseConfig
from train.config import TrainConfig, read_config

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "train/configs").glob("*.toml"))


def kind_of(path):
    text = path.read_text(encoding="utf-8")
    return TrainConfig if "[run]" in text else BaseConfig


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_it_is_read(path):
    config = read_config(kind_of(path), path)
    assert config != kind_of(path)()


def test_an_unknown_key_is_named(tmp_path):
    path = tmp_path / "slip.toml"
    path.write_text(CONFIGS[0].read_text(encoding="utf-8") + "\nsteeps = 3\n")
    with pytest.raises(OSEDiffError, match="steeps"):
        read_config(kind_of(CONFIGS[0]), path)

"""The sheet of pairs that a person looks at."""

from __future__ import annotations

import pytest

from osediff_core.pictures.images import read_image
from train.config import to_toml
from train.contact_sheet import main
from train.data import build_dataset


@pytest.fixture
def written(config, tmp_path):
    """Return the path of a configuration, and the configuration."""
    made = config(degradation={"where": "device"})
    path = tmp_path / "config.toml"
    path.write_text(to_toml(made))
    return path, made


def test_it_shows_the_samples_of_the_run(written, tmp_path, capsys):
    path, config = written
    out = tmp_path / "sheet.png"
    assert main([str(path), str(out), "--first", "3", "--count", "5"]) == 0
    assert "5 pairs" in capsys.readouterr().out
    picture = read_image(out).rgb[0].float() / 255
    assert picture.shape == (3, 2 * 64, 4 * 2 * 64)
    dataset = build_dataset(config.data, config.degradation, config.run.seed)
    assert (picture[:, :64, 64:128] - dataset[3]["hq"]).abs().max() < 1e-6
    assert (
        picture[:, :64, :64] - dataset[3]["hq"]
    ).abs().max() > 0.05  # degraded, though training would do it later
    assert (picture[:, 64:, :128] - picture[:, :64, :128]).abs().max() > 0.05
    assert picture[:, 64:, 128:].unique().numel() == 1


def test_odd_pictures_are_counted(written, pictures, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"x")
    (broken / "b.png").write_bytes((pictures / "0.png").read_bytes())
    assert main([str(written[0]), str(tmp_path / "s.png"), "--sources", str(broken), "--count", "2"]) == 0
    assert "1 unreadable" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--sources", "absent"], ["--sources", "OUT"]])
def test_mistakes_are_sentences(written, tmp_path, capsys, arguments):
    assert main([str(written[0]), str(tmp_path / "s.png"), *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: The training source")
    with pytest.raises(SystemExit):
        main([str(written[0]), str(tmp_path / "s.png"), "--count", "0"])

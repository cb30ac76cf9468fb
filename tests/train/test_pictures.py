"""The training pictures that come from nothing, and from installed packages."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from train.base.crops import load_pictures
from train.demo.heldout import HELD_OUT
from train.pictures import __main__ as pictures
from train.pictures.dead_leaves import dead_leaves
from train.pictures.more_photographs import MORE, Photograph


def painted(seed: int, size: int = 96) -> torch.Tensor:
    return dead_leaves(size, torch.Generator().manual_seed(seed))


def test_leaves_are_pictures_that_depend_on_the_generator_alone():
    torch.manual_seed(1)
    first = painted(3)
    torch.manual_seed(2)
    assert torch.equal(painted(3), first)
    assert not torch.equal(painted(4), first)
    assert first.shape == (3, 96, 96)
    assert first.dtype == torch.float32
    assert 0 <= first.min() <= first.max() <= 1


def test_leaves_have_colour_edges_and_flat_parts():
    pile = torch.stack([painted(seed) for seed in range(12)])  # (12, 3, 96, 96)
    assert (pile.amax(1) - pile.amin(1)).mean() > 0.1  # saturation
    step = (pile[..., 1:] - pile[..., :-1]).abs().amax(1)
    assert (step > 0.2).float().mean() > 0.01  # edges
    assert (step < 0.01).float().mean() > 0.15  # flat
    assert pile.mean((1, 2, 3)).std() > 0.05  # dark ones and bright ones


@pytest.mark.parametrize("size", [8, 33])
def test_leaves_of_any_size(size):
    assert painted(0, size).shape == (3, size, size)


def test_leaves_too_small_are_refused():
    with pytest.raises(ValueError, match="at least 8"):
        painted(0, 7)


def test_photographs_leave_the_held_out_ones_alone():
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    names = [path.stem for path in pictures.bundled_photographs()]
    assert len(names) >= 10
    assert not set(names) & set(HELD_OUT)
    assert {"camera", "brick", "grass", "gravel", "coins"} <= set(names)


def test_photographs_are_written_as_rgb(tmp_path, monkeypatch):
    source = tmp_path / "grey.png"
    Image.new("L", (20, 10), 90).save(source)
    monkeypatch.setattr(pictures, "bundled_photographs", lambda: [source])
    assert pictures.main([str(tmp_path / "new"), "--leaves", "0"]) == 0
    (written,) = (tmp_path / "new").iterdir()
    with Image.open(written) as image:
        assert (written.name, image.mode, image.size) == ("photo_grey.png", "RGB", (20, 10))
        assert image.getpixel((3, 3)) == (90, 90, 90)


def test_leaves_are_written_once_per_number_and_seed(tmp_path):
    first = pictures.write_leaves(tmp_path, 2, seed=1, size=32)
    kept = [path.read_bytes() for path in first]
    again = pictures.write_leaves(tmp_path, 1, seed=1, size=32)
    assert again[0].read_bytes() == kept[0] != kept[1]
    other = pictures.write_leaves(tmp_path, 1, seed=2, size=32)
    assert other[0].read_bytes() not in kept


def test_a_missing_package_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    assert pictures.main([str(tmp_path)]) == 1
    assert "come with scikit-image: pip install -e .[pictures]" in capsys.readouterr().err


def two_photographs(share):
    """Put two photographs below a folder like /usr/share: a wide one, and one kept for choosing."""
    for name, size in (("wide", (2100, 700)), ("kept", (400, 300))):
        Image.new("RGB", size, (200, 100, 50)).save(share / f"{name}.png")
    return [
        Photograph("some-package", "wide.png", "A", "CC0", group="further"),
        Photograph("some-package", "kept.png", "B", "CC0", choosing=True),
    ]


def test_more_photographs_are_shrunk_and_the_ones_to_choose_by_stay_out_of_training(tmp_path):
    share, out = tmp_path / "share", tmp_path / "out"
    share.mkdir()
    out.mkdir()
    pictures.write_more(share, out, two_photographs(share))
    ((name, picture),) = load_pictures(out)  # what the trainings of the base read
    assert (name, picture.shape) == ("further_wide", (3, 467, 1400))
    crops = sorted((out / "validation").iterdir())
    assert [crop.name for crop in crops] == [f"kept_{n}.png" for n in range(6)]
    assert {Image.open(crop).size for crop in crops} == {(192, 192)}


def test_the_package_of_an_absent_photograph_is_named(tmp_path):
    wanted = two_photographs(tmp_path)
    (tmp_path / "kept.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"kept\.png .* package some-package"):
        pictures.write_more(tmp_path, tmp_path, wanted)
    assert not (tmp_path / "validation").exists()


def test_more_photographs_name_author_and_licence_and_no_two_get_one_file():
    names = [photograph.file.rsplit("/", 1)[1] for photograph in MORE]
    assert len(set(names)) == len(names) >= 42
    assert not {name.split(".")[0] for name in names} & set(HELD_OUT)
    assert {photograph.licence for photograph in MORE} == {
        "CC0",
        "CC BY 4.0",
        "public domain",
        "BSD-3-Clause",
    }
    assert all(photograph.author for photograph in MORE)
    assert sum(photograph.choosing for photograph in MORE) == 4
    assert not any(photograph.choosing for photograph in MORE if photograph.group != "more")

"""Which picture is measured against which, and where test sets are found."""

from __future__ import annotations

import pytest
import torch

from osediff_core.errors import OSEDiffError
from osediff_core.pictures.images import write_image
from train.evaluation.data_sets import SetConfig, open_set
from train.evaluation.pairs import check_scale, content, pair_up, read_pair


def put(folder, *names, size=(8, 12), level=0.5):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        write_image(folder / name, torch.full((1, 3, *size), level))
    return folder


@pytest.mark.parametrize(
    ("restored", "originals"),
    [
        (("a.png", "b.png"), ("a.png", "b.png")),
        (("a.png", "b.png"), ("a.bmp", "b.tif")),
        (("a_out.png", "b_out.png"), ("a.png", "b.png")),
        (("a.png", "b.png"), ("a-HR.png", "b-HR.png")),
        (("a_x1_sr.png", "b_x1_sr.png"), ("a_x1_hr.png", "b_x1_hr.png")),
        (("a LR4.png", "b LR4.png"), ("a_HR.png", "b_HR.png")),
        (("a_out.png",), ("a.png",)),
        (("a.png",), ("a_HR.png",)),
    ],
)
def test_pictures_are_paired_by_name(tmp_path, restored, originals):
    sr, hq = put(tmp_path / "sr", *restored), put(tmp_path / "hq", *originals)
    pairs = pair_up(sr, hq)
    assert len(pairs) == len(restored)
    for pair in pairs:
        assert pair.sr.name[0] == pair.hq.name[0]
        assert pair.sr.parent == sr
        assert pair.hq.parent == hq


def test_equal_names_win_over_ends_taken_off(tmp_path):
    """img_1 and img_2 share no end; were "_1" taken for one, they would be swapped or lost."""
    sr, hq = put(tmp_path / "sr", "a_1.png", "a_2.png"), put(tmp_path / "hq", "a_1.png", "a_2.png")
    assert [(p.sr.stem, p.hq.stem) for p in pair_up(sr, hq)] == [("a_1", "a_1"), ("a_2", "a_2")]


def test_two_files_are_a_pair_whatever_their_names(tmp_path):
    put(tmp_path, "x.png", "completely-else.png")
    (pair,) = pair_up(tmp_path / "x.png", tmp_path / "completely-else.png")
    assert (pair.sr.name, pair.hq.name) == ("x.png", "completely-else.png")


@pytest.mark.parametrize(
    ("restored", "originals", "said"),
    [
        (("a.png", "b.png"), ("a.png",), "hq has no b"),
        (("a.png",), ("a.png", "c.png"), "sr has no c"),
        (("a_out.png", "b_out.png"), ("a.png", "c.png"), "without _out"),
        (("a.png", "a.bmp"), ("a.png",), "one picture of each name"),
        ((), ("a.png",), "found none"),
    ],
)
def test_what_has_no_partner_is_named(tmp_path, restored, originals, said):
    sr, hq = put(tmp_path / "sr", *restored), put(tmp_path / "hq", *originals)
    with pytest.raises(OSEDiffError, match=said):
        pair_up(sr, hq)


def test_many_missing_names_are_counted(tmp_path):
    sr = put(tmp_path / "sr", "a.png")
    hq = put(tmp_path / "hq", "a.png", *(f"m{i}.png" for i in range(9)))
    with pytest.raises(OSEDiffError, match=r"m0, m1, m2, m3, m4 and 4 more"):
        pair_up(sr, hq)


@pytest.mark.parametrize("size", [(8, 11), (7, 12), (4, 6), (12, 8)])
def test_other_sizes_are_refused_by_name(tmp_path, size):
    sr, hq = put(tmp_path / "sr", "odd.png", size=size), put(tmp_path / "hq", "odd.png")
    with pytest.raises(OSEDiffError, match=rf"odd\.png.*12x8, got {size[1]}x{size[0]}"):
        read_pair(pair_up(sr, hq)[0])


def test_a_low_quality_picture_is_enlarged_to_the_original(tmp_path):
    lq, hq = put(tmp_path / "lq", "a.png", size=(4, 6)), put(tmp_path / "hq", "a.png")
    sr, original = read_pair(pair_up(lq, hq, enlarge=True)[0])
    assert sr.shape == original.shape == (1, 3, 8, 12)
    assert check_scale("a", torch.zeros(1, 3, 4, 6), original) == 2
    put(lq, "a.png", size=(4, 5))
    with pytest.raises(OSEDiffError, match="whole number of times"):
        read_pair(pair_up(lq, hq, enlarge=True)[0])


def test_the_hash_tells_files_and_their_use_apart(tmp_path):
    a, b = put(tmp_path / "a", "x.png", level=0.2), put(tmp_path / "b", "x.png", level=0.7)
    hashes = {content(pair_up(*places)[0]) for places in ((a, b), (b, a), (a, a), (b, b))}
    hashes.add(content(pair_up(a, b, enlarge=True)[0]))
    hashes.add(content(pair_up(a, None)[0]))
    assert len(hashes) == 6
    assert content(pair_up(a, b)[0]) in hashes


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("RealSR", "test_LR", "test_HR"),
        ("RealSR", "RealSRVal_crop128/test_LR", "RealSRVal_crop128/test_HR"),
        ("DRealSR", "DrealSRVal_crop128/test_LR", "DrealSRVal_crop128/test_HR"),
        ("DRealSR", "benchmark_drealsr/test_LR", "benchmark_drealsr/test_HR"),
        ("DIV2K-Val", "DIV2K_V2_val/lq", "DIV2K_V2_val/gt"),
        ("mine", "mine/LQ", "mine/HQ"),
    ],
)
def test_published_layouts_are_recognised(tmp_path, name, low, high):
    put(tmp_path / low, "p.png", size=(4, 6))
    put(tmp_path / high, "p.png")
    data = open_set(name, SetConfig(folder=str(tmp_path)))
    assert [(p.sr, p.hq, p.enlarge) for p in data.pairs] == [
        (tmp_path / low / "p.png", tmp_path / high / "p.png", True)
    ]
    assert data.folder == (tmp_path / low).parent


def test_a_missing_set_is_told_with_address_and_licence(tmp_path):
    with pytest.raises(OSEDiffError, match=r"huggingface\.co/datasets/Iceclear.*non-commercial.*RealSRVal"):
        open_set("RealSR", SetConfig(folder=str(tmp_path)))
    with pytest.raises(OSEDiffError, match="`lq` and `hq`"):
        open_set("mine", SetConfig(folder=str(tmp_path)))


@pytest.mark.parametrize(
    "wrong", [{}, {"lq": "a"}, {"folder": "a", "hq": "b"}, {"folder": "f", "lq": "a", "hq": "b"}]
)
def test_a_set_is_one_folder_or_two(wrong):
    with pytest.raises(OSEDiffError, match="either `folder` or both"):
        SetConfig(**wrong)


def test_pictures_of_others_get_the_names_of_the_set(tmp_path):
    lq, hq = (
        put(tmp_path / "s/LR", "a_lr.png", "b_lr.png", size=(4, 6)),
        put(tmp_path / "s/HR", "a_hr.png", "b_hr.png"),
    )
    data = open_set("s", SetConfig(lq=str(lq), hq=str(hq)))
    theirs = data.paired_with(put(tmp_path / "theirs", "a_hr.png", "b_hr.png"))
    assert [p.name for p in theirs] == [p.name for p in data.pairs] == ["a", "b"]
    assert not any(p.enlarge for p in theirs)

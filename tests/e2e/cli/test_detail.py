"""--detail reaches the core, 1 is what is done without it, and what cannot be meant is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core import OSEDiff, restore
from osediff_core.choices import MOST_DETAIL
from osediff_core.commands.options import restore_parser
from osediff_core.commands.restore_files import Settings, restore_files
from osediff_core.pictures.images import read_image
from osediff_core.pictures.jobs import Job
from osediff_core.sizes import Size


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def test_a_file_is_restored_with_the_detail_that_was_asked_for(model: OSEDiff, picture, tmp_path):
    made = {}
    for detail in (0.5, 1.0):
        job, settings = Job(picture, tmp_path / "out.png"), Settings(size=Size(value=2), detail=detail)
        assert list(restore_files(model, [job], settings, lambda job: None)) == [(job, None)]
        made[detail] = read_image(tmp_path / "out.png").rgb.float() / 255
        wanted = restore(model, read_image(picture).rgb, scale=2, detail=detail)
        assert (made[detail] - wanted).abs().max() <= 0.51 / 255
    assert not torch.allclose(made[0.5], made[1.0], atol=2 / 255)


def test_the_option_is_1_by_default_and_as_far_as_the_core_goes():
    parser = restore_parser({})
    assert parser.parse_args(["in", "out"]).detail == 1.0
    assert parser.parse_args(["in", "out", "--detail", "0.25"]).detail == 0.25
    assert parser.parse_args(["in", "out", "--detail", f"{MOST_DETAIL}"]).detail == MOST_DETAIL


@pytest.mark.parametrize("value", ["-0.1", "2.5", "nan", "much"])
def test_what_cannot_be_meant_is_refused(value, capsys):
    with pytest.raises(SystemExit) as stop:
        restore_parser({}).parse_args(["in", "out", "--detail", value])
    assert stop.value.code == 2
    assert "--detail" in capsys.readouterr().err

"""The evaluation and the bundle, on the micro base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from osediff_core import OSEDiff
from osediff_core.pictures.images import write_image
from osediff_core.weights.checkpoint import read_checkpoint
from train.degradation import DegradationConfig, degrade_to_lq_size
from train.demo import bundle
from train.demo import evaluation as demo_evaluation
from train.evaluation.fidelity import psnr_y

MICRO = Path(__file__).resolve().parents[1] / "golden_micro"
BASE, WEIGHTS = MICRO / "tiny_sd", MICRO / "osediff.pkl"


@pytest.fixture
def folders(tmp_path):
    """Two smooth photographs of 64 x 80 px and their quarter-size partners."""
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        coarse = torch.rand(1, 3, 4, 5, generator=generator)
        for folder, size in (("hq", (64, 80)), ("lq", (16, 20))):
            (tmp_path / folder).mkdir(exist_ok=True)
            picture = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
            write_image(tmp_path / folder / f"{name}.png", picture)
    return tmp_path


def test_the_table_has_every_row(folders, capsys):
    arguments = ["--base", str(BASE), "--weights", str(WEIGHTS), "--hq", str(folders / "hq")]
    status = demo_evaluation.main(
        [*arguments, "--json", str(folders / "rows.json"), "--sheet", str(folders / "sheet.png")]
    )
    out = capsys.readouterr().out
    assert status == 0
    assert "2 pictures" in out
    assert "VAE round trip" in out
    names = [row["name"] for row in json.loads((folders / "rows.json").read_text())]
    assert names[0] == "bicubic"
    assert names[1].startswith("bicubic + blur")
    assert names[-2:] == ["base without a checkpoint", "osediff"]
    assert (folders / "sheet.png").exists()


def test_the_bicubic_row_is_what_it_says(folders):
    pictures = demo_evaluation.folder_pictures(folders / "hq", 16)
    pairs = demo_evaluation.degraded_pairs(pictures, 7)
    row, each = demo_evaluation.measure("bicubic", demo_evaluation.bicubic, pairs)
    hq = demo_evaluation.as_batch(pictures[1][1])
    lq = degrade_to_lq_size(hq[0], DegradationConfig(), torch.Generator().manual_seed(8))[None]
    sr = demo_evaluation.bicubic((lq * 255).round().to(torch.uint8))
    assert each[1] == pytest.approx(psnr_y((sr * 255).round() / 255, hq).item(), abs=1e-4)
    assert row.psnr == pytest.approx(sum(each) / 2, abs=1e-4)
    assert (
        demo_evaluation.degraded_pairs(pictures, 9)[0].lq.ne(pairs[0].lq).any()
    )  # another seed, another picture


def test_real_pairs_need_fitting_sizes(folders, capsys):
    arguments = ["--base", str(BASE), "--weights", str(WEIGHTS)]
    both = ["--hq", str(folders / "hq"), "--lq", str(folders / "lq")]
    assert demo_evaluation.main([*arguments, *both]) == 0
    assert demo_evaluation.main([*arguments, "--hq", str(folders / "hq"), "--lq", str(folders / "hq")]) == 2
    assert "a quarter of the HQ size" in capsys.readouterr().err
    (folders / "lq" / "b.png").unlink()
    assert demo_evaluation.main([*arguments, *both]) == 2
    assert "expected b in" in capsys.readouterr().err


def test_a_bundle_restores_what_its_source_does(tmp_path):
    size = bundle.bundle(BASE, WEIGHTS, tmp_path / "demo")
    assert size < 1.2e6
    assert not [f for f in (tmp_path / "demo").rglob("*.json") if str(MICRO) in f.read_text(encoding="utf-8")]
    assert (
        read_checkpoint(tmp_path / "demo/osediff_demo.safetensors").metadata["base"]
        == "the bundled demo base"
    )
    lq = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    source = OSEDiff.from_pretrained(BASE, WEIGHTS, device="cpu", dtype="float32")
    copy = OSEDiff.from_pretrained(
        tmp_path / "demo/base", tmp_path / "demo/osediff_demo.safetensors", device="cpu", dtype="float32"
    )
    a, b = (model(lq, model.encode_prompt(["a cat"]))[0] for model in (source, copy))
    assert 0 < (a - b).abs().max() < 0.05  # float16 storage is felt, and no more

"""RAM and DAPE at full size: every key of their files has its place; and, slow, from file to tags."""

import math

import pytest
import torch

from benchmarks.random_tagger import dape_shapes, ram_shapes, write_files
from osediff_core.commands.cli import main
from osediff_core.prompts.ram import expected_shapes, fold_dape
from osediff_core.prompts.tagger import Tagger
from osediff_core.tools.cost import RAM as FULL


def test_every_key_of_both_files_is_known():
    """On the meta device: 1042 names of RAM and 248 of DAPE, of which what tags need comes out."""
    ram, dape = ram_shapes(), dape_shapes()
    assert (len(ram), len(dape)) == (1042, 248)
    with torch.device("meta"):
        tensors = [{key: torch.empty(shape) for key, shape in part.items()} for part in (ram, dape)]
        folded = fold_dape(*tensors)
    assert {key: tuple(tensor.shape) for key, tensor in folded.items()} == expected_shapes(FULL)
    assert sum(math.prod(shape) for shape in expected_shapes(FULL).values()) == 212_117_045


@pytest.mark.slow
def test_the_files_become_one_that_tags(tmp_path):
    """As a user does it; 2 GB are written, and as much memory is needed."""
    ram, dape = write_files(tmp_path, optimizer=False)
    out = tmp_path / "tagger.safetensors"
    assert main(["convert-dape", str(ram), str(dape), str(out)]) == 0
    assert 0.4e9 < out.stat().st_size < 0.45e9
    picture = torch.rand(1, 3, 200, 300, generator=torch.Generator().manual_seed(0))
    converted = Tagger.from_pretrained(out, device="cpu").logits(picture)
    exact = Tagger.from_pretrained(ram, dape, device="cpu").logits(picture)
    assert exact.std() > 1e-4
    assert (converted - exact).abs().max() < 0.05 * exact.std() + 1e-3

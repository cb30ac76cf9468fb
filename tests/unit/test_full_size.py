"""A model of full size with random weights, in each form that users have, in 24 GiB on a CPU.

`python -m benchmarks.full_size FOLDER` prints the seconds and the memory that this only bounds.
"""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.full_size import FORMS, TAGGER, in_a_process_of_its_own

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where RAM's and DAPE's files are, and the bases go, one after the other."""
    place = tmp_path_factory.mktemp("full_size")
    in_a_process_of_its_own(str(place), "--build", TAGGER)
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize("form", FORMS)
def test_it_loads_and_restores_in_24_gib(folder, form):
    path = Path(in_a_process_of_its_own(str(folder), "--build", form))
    found = json.loads(in_a_process_of_its_own(str(folder), "--measure", str(path)))
    print(form, found)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert found["resident"]["all"] < 24
    # The weights in float32 are 5.2 GB, 4.8 GiB: with a second copy of the UNet alone it would be over 8.
    assert found["own"]["load"] < 6.5
    # With the tagger's 0.8 GiB and what the pictures need.
    assert max(found["own"].values()) < 12


def test_the_taggers_own_file_is_made_and_loaded_in_little_memory(folder):
    """Its weights in float32 are 0.8 GiB, where RAM's file has 5.7."""
    found = json.loads(in_a_process_of_its_own(str(folder), "--measure", TAGGER))
    print(found)
    assert max(found["own"].values()) < 3

"""A folder run gives every picture a result of its own, in the folder of results, and touches no original."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from osediff_core.pictures.jobs import PICTURES, Rules, find_jobs
from osediff_core.pictures.naming import Naming

stems = st.text("aAbB._ 1", min_size=1, max_size=4).filter(lambda s: s.strip(". ") == s)
names = st.builds(lambda stem, ending: stem + ending, stems, st.sampled_from([*PICTURES, ".PNG", ".txt"]))
paths = st.lists(st.tuples(st.sampled_from(["", "d/", "d/e/"]), names), min_size=1, max_size=8, unique=True)


@settings(deadline=None, max_examples=80)
@given(paths=paths, suffix=st.sampled_from([".png", ".jpg"]), recursive=st.booleans())
def test_results_are_apart(paths, suffix, recursive):
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in", Path(folder) / "out"
        for place, name in paths:
            (source / place).mkdir(parents=True, exist_ok=True)
            (source / place / name).touch()
        wanted = [
            p for p in source.rglob("*") if p.suffix.lower() in PICTURES and (recursive or p.parent == source)
        ]
        assume(wanted)
        plan = find_jobs(str(source), str(target), Rules(Naming(suffix), recursive=recursive))
        assert sorted(job.source for job in plan.todo) == sorted(wanted)
        results = [str(job.target).casefold() for job in plan.todo]
        assert len(set(results)) == len(results)
        for job in plan.todo:
            assert target in job.target.parents
            assert job.target.suffix == suffix
            assert job.target.parent.is_dir()

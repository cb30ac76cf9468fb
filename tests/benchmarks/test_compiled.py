"""What compiling gains is measured on a model that is compiled, or not at all."""

import pytest

from benchmarks import compiled


def test_a_model_that_is_not_compiled_is_not_measured_as_one(micro, monkeypatch):
    options = {"base": micro / "tiny_sd", "weights": micro / "osediff.pkl"}
    monkeypatch.setattr("osediff_core.model.compile_parts", lambda parts: None)
    with pytest.raises(SystemExit, match="compiling failed here"):
        compiled.compare(options, 8, 8, 1)


@pytest.mark.slow
def test_both_are_measured(micro):
    options = {"base": micro / "tiny_sd", "weights": micro / "osediff.pkl"}
    plain, found = compiled.compare(options, 8, 8, 1)
    assert plain.difference == 0
    assert min(plain.first, plain.after, found.first, found.after) > 0
    assert found.difference < 1e-3

"""--compile reaches the loading of the model, and is off unless asked for."""

import pytest

from osediff_core import OSEDiff


@pytest.mark.parametrize(("options", "wanted"), [([], False), (["--compile"], True)])
def test_compiling_is_asked_for(osediff, model, monkeypatch, picture, options, wanted):
    seen = []

    def load(*args, **options):
        seen.append(options["compile"])
        return model

    monkeypatch.setattr(OSEDiff, "from_pretrained", load)
    picture("a.png")
    status, said = osediff("a.png", "b.png", *options)
    assert (status, seen) == (0, [wanted]), said

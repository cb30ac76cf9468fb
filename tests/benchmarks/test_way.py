"""A picture's way from `restore` to the UNet stays short."""

from benchmarks import way
from osediff_core import OSEDiff

MOST_FRAMES, MOST_FUNCTIONS, MOST_FILES = 7, 72, 12


def first_way():
    return way.measure(OSEDiff.from_pretrained(device="cpu", dtype="float32"))


def test_the_way_is_short():
    found = first_way()
    print(f"{len(found.above_unet)} frames, {len(found.functions)} functions, {len(found.files)} files")
    assert 3 < len(found.above_unet) <= MOST_FRAMES
    assert 40 < len(found.functions) <= MOST_FUNCTIONS
    assert 5 < len(found.files) <= MOST_FILES


def test_a_detour_is_counted(monkeypatch):
    straight = first_way()
    name, code = (
        OSEDiff.__module__.replace(".", "/") + ".py",
        "def detour(self, *a, **k): return self.straight(*a, **k)",
    )
    space = {}
    exec(compile(code, str(way.ROOT / name), "exec"), space)
    monkeypatch.setattr(OSEDiff, "straight", OSEDiff.predict_noise, raising=False)
    monkeypatch.setattr(OSEDiff, "predict_noise", space["detour"])
    longer = first_way()
    assert len(longer.above_unet) == len(straight.above_unet) + 1
    assert len(longer.functions) == len(straight.functions) + 1

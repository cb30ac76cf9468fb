"""How the work is cut to the memory: from figures alone, and after memory really ran out."""

import copy
import gc
import logging
from contextlib import suppress

import pytest
import torch

from osediff_core import OSEDiff, restore
from osediff_core.device import memory
from osediff_core.device.memory import first_that_fits, free_memory, is_out_of_memory
from osediff_core.errors import OSEDiffError
from osediff_core.pipeline import plan as room
from osediff_core.pipeline.plan import CPU, Cut, Room, cuts, tiles_at_once
from osediff_core.pipeline.run import decode, denoise, encode, encode_prompt
from osediff_core.pipeline.tiling import tiled

from .vaes import Alive, uneven

GATE = 1e-4
TILES_GATE = 1e-5
GPU = torch.device("cuda")
GIB = 2**30


def needs(cut):
    """Whole 10 GiB on the device; pieces of 256 take 1 GiB, smaller ones less, and 4 GiB are kept."""
    if cut.piece is None:
        return 10 * GIB, 0
    working = GIB * cut.piece**2 // 256**2
    return (working + 4 * GIB, 0) if cut.keep is None else (working, 4 * GIB)


def memory_of(device, host):
    return lambda where: device if where.type == "cuda" else host


@pytest.mark.parametrize(
    ("vae", "free", "first"),
    [
        ("auto", (None, None), Cut(None)),
        ("auto", (20 * GIB, 0), Cut(None)),
        ("auto", (12 * GIB, 0), Cut(256)),
        ("auto", (2 * GIB, 8 * GIB), Cut(256, CPU)),
        ("auto", (GIB // 2, 8 * GIB), Cut(128, CPU)),
        (64, (20 * GIB, 0), Cut(64)),
        (64, (2 * GIB, 8 * GIB), Cut(64, CPU)),
        ("whole", (0, 0), Cut(None)),
    ],
)
def test_the_vae_runs_whole_where_it_fits_and_else_in_pieces(vae, free, first):
    assert cuts(Room(vae, free=memory_of(*free)), GPU, needs)[0] == first


def test_files_stand_in_for_host_memory(tmp_path):
    there = Room(spill=tmp_path, free=memory_of(2 * GIB, GIB))
    assert cuts(there, GPU, needs)[0] == Cut(256, tmp_path)
    with pytest.raises(OSEDiffError, match=r"there is no folder .*disk to spill to"):
        Room(spill=tmp_path / "disk")
    with pytest.raises(
        OSEDiffError, match=r"4\.0 GiB of the host\'s memory, of which 1\.0 GiB are free.*spill"
    ):
        cuts(Room(free=there.free), GPU, needs)


def test_each_way_to_go_on_needs_less():
    ways = cuts(Room(free=memory_of(None, None)), GPU, needs)
    assert ways == [Cut(None), Cut(256), *(Cut(side, CPU) for side in (256, 128, 64, 32))]
    assert [str(way) for way in ways[:3]] == [
        "the VAE whole",
        "the VAE in pieces of 256 pixels",
        "the VAE in pieces of 256 pixels and host memory",
    ]


@pytest.mark.parametrize("vae", ["half", 8, 0, -1, True, 31.5])
def test_a_cut_that_is_none_is_refused(vae, model):
    with pytest.raises(OSEDiffError, match=r"VAE"):
        restore(model, torch.zeros(1, 3, 8, 8), vae=vae)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (OSEDiffError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_an_out_of_memory_error_is(error, is_one):
    assert is_out_of_memory(error) == is_one


def test_only_out_of_memory_leads_to_the_next_attempt(caplog):
    def run(size):
        if size > 2:
            raise MemoryError
        return size

    with caplog.at_level(logging.WARNING):
        assert first_that_fits([8, 4, 2, 1], run, str) == 2
    assert [r.getMessage() for r in caplog.records] == [
        "memory ran out with 8; going on with 4",
        "memory ran out with 4; going on with 2",
    ]
    with pytest.raises(MemoryError):
        first_that_fits([8, 4], run, str)
    with pytest.raises(ZeroDivisionError):
        first_that_fits([0, 1], lambda size: 1 // size, str)


def test_what_failed_is_freed_before_the_next_attempt():
    seen = []

    def run(size):
        taken = torch.empty(size)
        seen.append(alive.now)
        if size > 10:
            raise MemoryError
        return taken

    with Alive() as alive:
        first_that_fits([1000, 10], run, str)
    assert seen == [4000, 40]


def test_free_host_memory_is_the_systems_or_the_groups(tmp_path):
    proc = tmp_path / "meminfo"
    proc.write_text("MemTotal: 900 kB\nMemAvailable: 500 kB\n")
    group = tmp_path / "group"
    group.mkdir()
    assert memory._free_host_memory(proc, group) == 500 * 1024
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    assert memory._free_host_memory(proc, group) == 500 * 1024
    (group / "memory.max").write_text("300000\n")
    (group / "memory.stat").write_text("anon 5\ninactive_file 700\n")
    assert memory._free_host_memory(proc, group) == 300000 - 1000 + 700
    assert memory._free_host_memory(tmp_path / "none", group) is None


def test_the_free_memory_of_this_machine_is_a_sensible_number():
    free = free_memory(CPU)
    assert free is None or 2**20 < free < 2**50


def starve(monkeypatch, owner, name, fits):
    """Let a function run out of memory unless `fits` is content with its arguments; return the calls."""
    true, calls = getattr(owner, name), []

    def starved(*args, **options):
        good = fits(*args, **options)
        calls.append(good)
        if not good:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return true(*args, **options)

    monkeypatch.setattr(owner, name, starved)
    return calls


def image(height, width, batch=1):
    return (uneven(batch, 3, height, width) + 1) / 2


def test_pieces_are_the_same_picture(model, tmp_path):
    lq = image(25, 33)
    whole = restore(model, lq, vae="whole")
    for options in ({"vae": 32}, {"vae": 64}, {"free": lambda device: 2 * 10**6, "spill": tmp_path}):
        pieces = restore(model, lq, **options)
        assert not torch.equal(pieces, whole)  # or it was not cut
        assert (pieces - whole).abs().max() <= GATE


def test_where_the_whole_fits_nothing_changes_by_a_bit(model):
    lq = image(20, 12)
    assert torch.equal(restore(model, lq), restore(model, lq, vae="whole"))
    assert torch.equal(restore(model, lq, free=lambda device: None), restore(model, lq, vae="whole"))


@pytest.mark.parametrize("step", ["encode", "decode"])
def test_a_vae_that_runs_out_of_memory_goes_on_in_pieces(model, monkeypatch, caplog, step):
    lq = image(24, 24, batch=2)
    expected = restore(model, lq)
    name = {"encode": "encode", "decode": "decode_unclamped"}[step]
    whole = starve(monkeypatch, type(model), name, lambda *args: False)
    cut = starve(monkeypatch, room, f"{step}_in_pieces", lambda *args, piece, **rest: piece <= 64)
    with caplog.at_level(logging.WARNING):
        out = restore(model, lq)
    assert (out - expected).abs().max() <= GATE
    assert whole == [False, False]  # once for each image
    assert cut == [False, False, True] * 2  # 256, 128, 64
    assert len(caplog.records) == 6


def test_results_before_a_failure_are_kept(model, monkeypatch):
    x = image(32, 32, batch=3)
    expected = encode(model, x)
    done = starve(monkeypatch, type(model), "encode", lambda *args: len(done) != 1)
    z = encode(model, x)
    assert done == [True, False, True]  # the first is not made again
    assert torch.equal(z[0], expected[0])
    assert (z - expected).abs().max() <= GATE


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_tiles_in_batches_blend_to_the_same(batch):
    z = uneven(2, 3, 21, 17)
    seen, done = [], []

    def fn(tiles, boxes):
        seen.append(len(boxes))
        assert tiles.shape == (2 * len(boxes), 3, 8, 8)
        return tiles * tiles.mean((1, 2, 3), keepdim=True)

    out = tiled(fn, z, 8, 3, lambda *at: done.append(at), batch=batch)
    one_by_one = tiled(lambda t, b: t * t.mean((1, 2, 3), keepdim=True), z, 8, 3)
    assert torch.allclose(out, one_by_one, atol=1e-6)
    assert max(seen) == min(batch, sum(seen))
    assert done == [(i + 1, sum(seen)) for i in range(sum(seen))]


def test_running_out_halves_the_batch_and_keeps_what_is_done(caplog):
    z, calls = uneven(1, 3, 32, 32), []

    def fn(tiles, boxes):
        calls.append(len(boxes))
        if len(boxes) > 2 and len(calls) > 1:
            raise MemoryError
        return tiles

    with caplog.at_level(logging.WARNING):
        assert torch.allclose(tiled(fn, z, 8, 0, batch=7), z, atol=1e-6)
    assert calls == [7, 7, 3, 1, *[1] * 8]
    assert [r.getMessage()[-1] for r in caplog.records] == ["3", "1"]


def batches(monkeypatch, model, fits):
    """The sizes of the tiles (batch, height, width) that the UNet gets."""
    sizes = []

    def note(self, z, embeds):
        sizes.append((len(z), *z.shape[-2:]))
        return fits(len(z), z.shape[-1])

    starve(monkeypatch, type(model), "predict_noise", note)
    return sizes


def test_the_unet_takes_as_many_tiles_as_fit(model, monkeypatch):
    z, embeds = torch.randn(1, 4, 40, 40, generator=torch.manual_seed(0)), encode_prompt(model, [""])
    one_by_one = denoise(model, z, embeds, 16, 4)
    monkeypatch.setattr(room, "CPU", None)  # as if on a device that gains from it
    unet = model.unet
    each = room.unet_memory(unet, 16, 16)
    there = Room(free=lambda device: 4.5 * each)
    assert tiles_at_once(unet, 16, 16, there) == 4
    assert tiles_at_once(unet, 16, 16, Room(free=lambda device: 0)) == 1
    assert tiles_at_once(unet, 16, 16, Room(free=lambda device: 10**15)) == room.MOST_TILES
    sizes = batches(monkeypatch, model, lambda count, side: True)
    out = denoise(model, z, embeds, 16, 4, room=there)
    assert sizes == [(4, 16, 16), (4, 16, 16), (1, 16, 16)]
    assert (out - one_by_one).abs().max() <= TILES_GATE * (1 + one_by_one.abs().max())


def test_a_tile_that_does_not_fit_is_halved_down_to_a_floor(model, monkeypatch, caplog):
    z, embeds = torch.randn(2, 4, 70, 70, generator=torch.manual_seed(0)), encode_prompt(model, [""])
    sizes = batches(monkeypatch, model, lambda count, side: side <= 35)
    seen = []
    with caplog.at_level(logging.WARNING):
        out = denoise(model, z, embeds, 70, 4, lambda *at: seen.append(at))
    assert out.shape == z.shape
    assert out.isfinite().all()
    assert sizes[0][1:] == (70, 70)
    assert sizes[1][1:] == (35, 35)
    assert caplog.records[0].getMessage() == (
        "memory ran out with tiles of 70 latent pixels for the UNet; going on with tiles of 35 latent pixels "
        "for the UNet"
    )
    assert max(done for done, _ in seen) == seen[0][1]
    batches(monkeypatch, model, lambda count, side: False)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        denoise(model, z, embeds, 70, 4)


def test_every_tile_may_have_its_own_prompt(model):
    lq, seen = image(8, 14), []

    def name(tile):
        seen.append(tuple(tile.shape))
        return f"tile {len(seen)}"

    out = restore(model, lq, tile=4, overlap=1, prompt="unused", tile_prompt=name)
    assert seen == [(1, 3, 32, 32), (1, 3, 32, 32)]
    assert torch.equal(
        restore(model, lq, tile=4, overlap=1, tile_prompt=lambda tile: ""),
        restore(model, lq, tile=4, overlap=1),
    )
    assert not torch.equal(out, restore(model, lq, tile=4, overlap=1))
    with pytest.raises(OSEDiffError, match="for 3 tiles of an image that is cut into 2"):
        denoise(model, torch.zeros(1, 4, 3, 5), torch.zeros(1, 3, 77, 16), 3, 1)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_a_video_in_chunks_is_the_single_run(model, chunk):
    lq = image(8, 10, batch=5)
    whole, seen = restore(model, lq, scale=2), []
    ours = restore(model, lq, scale=2, chunk=chunk, progress=lambda *at: seen.append(at))
    assert torch.equal(ours, whole)
    assert seen == [(i, 15) for i in range(1, 16)]
    assert torch.equal(torch.cat([restore(model, part, scale=2) for part in lq.split(chunk)]), whole)
    with pytest.raises(OSEDiffError, match="at least 1 at a time, got chunk 0"):
        restore(model, lq, chunk=0)


def test_a_batch_takes_the_memory_of_one_image_beside_its_result(model):
    peaks = []
    for count in (2, 6):
        lq = image(16, 16, batch=count)
        with Alive() as alive:
            out = restore(model, lq)
        peaks.append(alive.peak - out.nbytes)
    assert peaks[1] <= 1.02 * peaks[0] + image(16, 16, batch=4).nbytes


def test_an_interrupted_run_frees_what_it_took(model):
    class CancelError(Exception):
        pass

    def cancel(done, total):
        if done == 2:
            raise CancelError

    lq = image(24, 24)
    with Alive() as alive:
        with suppress(CancelError):  # pytest.raises would hold the frames
            restore(model, lq, vae=32, progress=cancel)
            pytest.fail("it was not interrupted")
        gc.collect()
        assert alive.peak > 20 * alive.now


@pytest.mark.parametrize(("height", "width"), [(20000, 20000), (100000, 3000)])
def test_what_no_machine_holds_is_refused_with_the_memory_it_takes(model, height, width):
    huge = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(1, 3, height, width)
    with (
        Alive() as alive,
        pytest.raises(OSEDiffError, match=r"takes about \d+\.\d GiB of memory to make, and 8"),
    ):
        restore(model, huge, free=lambda device: 8 * GIB)
    assert alive.peak < 2**20


@pytest.mark.parametrize(("height", "width"), [(1, 900), (900, 1)])
def test_a_line_of_pixels_is_restored(model, height, width):
    out = restore(model, image(height, width), scale=1)
    assert out.shape == (1, 3, height, width)
    assert out.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(1, 20000), (20000, 1)])
def test_the_demo_restores_a_line_of_20000_pixels(height, width):
    demo = OSEDiff.from_pretrained(device="cpu", dtype="float32")
    lq = image(height, width)
    out = restore(demo, lq, vae=256)
    assert out.shape == (1, 3, 4 * height, 4 * width)
    assert (out.mean() - lq.mean()).abs() < 0.02  # a picture, and the right one


def test_20000_by_20000_is_refused_by_the_memory_of_this_machine(model):
    huge = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(1, 3, 20000, 20000)
    free = free_memory(CPU)
    if free is None or free > 2**40:
        pytest.skip("this machine does not say what is free, or could hold it")
    with pytest.raises(OSEDiffError, match=r"80000 x 80000 pixels takes about 572\.2 GiB of memory to make"):
        restore(model, huge)


@pytest.fixture
def unknown(model):
    """The model with a VAE that is computed like any other, and whose build is not known."""
    net = copy.deepcopy(model)
    block = net.vae.decoder.mid_block.resnets[0]
    block.norm1 = torch.nn.Sequential(block.norm1)
    return net


def test_a_vae_of_unknown_build_runs_whole_where_that_fits(model, unknown, monkeypatch):
    lq = image(20, 12)
    assert torch.equal(restore(unknown, lq), restore(model, lq))
    assert torch.equal(restore(unknown, lq, free=lambda device: None), restore(model, lq))
    for options in ({"vae": 64}, {"free": lambda device: 10**6}):
        with pytest.raises(OSEDiffError, match="cannot be cut into pieces: use vae='whole', where there is"):
            restore(unknown, lq, **options)
    starve(monkeypatch, type(model), "decode_unclamped", lambda *args: False)
    with pytest.raises(OSEDiffError, match="cannot be cut into pieces"):
        restore(unknown, lq)


def test_steps_take_the_room_too(model):
    x = image(32, 40)
    there = Room(vae=32)
    z = encode(model, x, None, there)
    assert (z - encode(model, x)).abs().max() <= GATE
    assert (decode(model, z, None, there) - decode(model, z)).abs().max() <= GATE
    beats = []
    encode(model, x, lambda *at: beats.append(at), there)
    assert set(beats) == {(0, 1), (1, 1)}
    assert beats[-1] == (1, 1)
